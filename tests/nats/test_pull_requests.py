"""What is asked of the server: never more than there is room for, nor than it says it allows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetstream_bridge.nats.pull_requests import OVERHEAD, PullCapacity, PullRequests

PAYLOAD = 1000
LEAST = PAYLOAD + OVERHEAD
MUCH = 100 * LEAST


def asked(
    requests: PullRequests, messages: int, size: int = MUCH, *, takes_any: bool = True
) -> list[Any]:
    return list(requests.more(PullCapacity(messages, size, takes_any), max_payload=PAYLOAD))


def refuse(requests: PullRequests, limit: str) -> bool:
    return requests.ended("409", {"Status": "409", "Description": f"Exceeded {limit}"})


def test_it_asks_again_at_half() -> None:
    requests = PullRequests()
    assert [request["batch"] for request in asked(requests, 10)] == [10]
    for _ in range(4):
        requests.came(1)
    assert asked(requests, 10) == []
    requests.came(1)
    assert [request["batch"] for request in asked(requests, 10)] == [5]
    assert requests.messages == 10


def test_the_limit_of_a_request_is_learned_and_kept() -> None:
    requests = PullRequests()
    asked(requests, 250)
    assert refuse(requests, "MaxRequestBatch of 100")
    assert [request["batch"] for request in asked(requests, 250)] == [100, 100, 50]
    assert not refuse(requests, "MaxRequestBatch of 100"), "it is obeyed already: something else"


def test_two_requests_may_be_refused_for_the_same_limit() -> None:
    requests = PullRequests()
    asked(requests, 200)
    for _ in range(100):
        requests.came(1)
    asked(requests, 200)
    assert refuse(requests, "MaxRequestBatch of 50")
    assert refuse(requests, "MaxRequestBatch of 50")


@pytest.mark.parametrize(
    ("limit", "seconds"), [("10s", 10.0), ("1m30s", 30.0), ("500ms", 0.5), ("1.5s", 1.5)]
)
def test_a_request_lives_no_longer_than_the_server_allows(limit: str, seconds: float) -> None:
    requests = PullRequests()
    asked(requests, 1)
    assert refuse(requests, f"MaxRequestExpires of {limit}") == (seconds < 30)
    [request] = asked(requests, 1)
    assert request["expires"] == int(seconds * 1_000_000_000)
    assert request["idle_heartbeat"] * 2 < request["expires"]


def test_too_many_requests_are_fewer_then() -> None:
    requests = PullRequests()
    asked(requests, 10)
    refuse(requests, "MaxRequestBatch of 2")
    assert len(asked(requests, 10)) == 5
    assert refuse(requests, "MaxWaiting")
    assert refuse(requests, "MaxWaiting")
    assert requests.messages == 6
    assert asked(requests, 10) == []
    requests.forget()
    assert len(asked(requests, 10)) == 3


def test_others_requests_fill_the_consumer() -> None:
    requests = PullRequests()
    asked(requests, 10)
    assert not refuse(requests, "MaxWaiting")


def test_bytes_are_asked_for_as_far_as_there_is_room() -> None:
    requests = PullRequests()
    [request] = asked(requests, 10, 3 * LEAST)
    assert request["max_bytes"] == 3 * LEAST // 2
    for _ in range(5):
        requests.came(100)
    [request] = asked(requests, 10, 3 * LEAST - 500)
    assert request["max_bytes"] == (3 * LEAST - 500) // 2
    for _ in range(5):
        requests.came(100)
    assert asked(requests, 10, LEAST) == [], "what was asked for may still come"
    assert requests.ended(
        "409",
        {
            "Description": "Message Size Exceeds MaxBytes",
            "Nats-Pending-Messages": "5",
            "Nats-Pending-Bytes": "7",
        },
    )
    assert requests.messages == 0
    [request] = asked(requests, 10, 2 * LEAST, takes_any=False)
    assert (request["batch"], request["max_bytes"]) == (10, LEAST)


def test_without_room_for_the_largest_message_nothing_is_asked_for() -> None:
    assert asked(PullRequests(), 10, LEAST - 1, takes_any=False) == []
    assert asked(PullRequests(), 10, -5, takes_any=False) == []


def test_whoever_holds_nothing_takes_one_of_any_size() -> None:
    requests = PullRequests()
    [request] = asked(requests, 10, LEAST - 1)
    assert request["batch"] == 1
    assert "max_bytes" not in request
    assert asked(requests, 10, LEAST - 1) == []


def test_a_message_that_fits_no_request_is_asked_for_by_itself() -> None:
    requests = PullRequests()
    asked(requests, 10)
    assert refuse(requests, "MaxRequestMaxBytes of 500")
    [request] = asked(requests, 10)
    assert request["max_bytes"] == 500
    requests.ended(
        "409",
        {
            "Description": "Message Size Exceeds MaxBytes",
            "Nats-Pending-Messages": "10",
            "Nats-Pending-Bytes": "500",
        },
    )
    [request] = asked(requests, 10)
    assert request["batch"] == 1
    assert "max_bytes" not in request


@given(st.lists(st.tuples(st.sampled_from(["more", "came", "ended"]), st.integers(1, 60))))
def test_what_is_open_is_never_more_than_the_room(steps: list[tuple[str, int]]) -> None:
    requests = PullRequests()
    for what, number in steps:
        if what == "more":
            before = requests.messages
            asked(requests, number)
            assert requests.messages <= max(before, number)
        elif what == "came":
            requests.came(number)
        else:
            requests.ended("408", {"Nats-Pending-Messages": str(number)})
        assert requests.messages >= 0
