"""Plans, computed from what was read, without a server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.core.errors import ApiError, JetStreamUnavailableError, NatsConnectionError
from jetstream_bridge.nats.management import StreamApi
from jetstream_bridge.topology.plan import (
    Conflict,
    Plan,
    consumer_differences,
    merged_consumer,
    new_consumer,
    new_stream,
    plan_stream,
    stream_differences,
)

ORDERS = BridgeConfig(app_name="orders", destination_app="billing", env="test")
CONSUMER = new_consumer(durable="d", subject="a", ack_wait=30.0, max_ack_pending=10_000)


class Answers:
    """Answers every request with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    async def request(self, subject: str, payload: bytes = b"", *, timeout: float) -> Any:
        return type("Message", (), {"data": self.answer})


def test_what_is_missing_is_added_once_and_what_others_own_is_named() -> None:
    plan = plan_stream(ORDERS, stream=None, needed=["a"], extra=["b", "a"], owners={"b": ["x"]})
    assert plan.create
    assert plan.add == ("a",)
    assert plan.conflicts == (Conflict("b", "x", needed=False),)
    assert plan.blocked == ()
    assert not plan.empty


def test_a_plan_without_changes_says_so() -> None:
    assert Plan(stream="s").empty
    assert Plan(stream="s").lines() == ["stream s is as this service needs it"]


def test_a_subject_that_a_second_stream_took_as_well_is_a_conflict() -> None:
    plan = plan_stream(
        ORDERS,
        stream={"subjects": ["a"]},
        needed=["a"],
        extra=(),
        owners={"a": [ORDERS.stream, "x"]},
    )
    assert plan.changes == ()
    assert plan.blocked == (Conflict("a", "x", needed=True),)


def test_a_stream_as_we_would_make_it_has_no_differences() -> None:
    assert stream_differences(ORDERS, new_stream(ORDERS, ["a"])) == ()


def test_only_what_differs_in_a_consumer_is_named() -> None:
    actual = CONSUMER | {"max_waiting": 512, "num_replicas": 0, "metadata": {"a": "b"}}
    assert consumer_differences(CONSUMER, actual) == []
    actual |= {"backoff": [1], "ack_wait": 1_000_000_000}
    assert consumer_differences(CONSUMER, actual) == ["ack_wait 1s -> 30s", "backoff removed"]


def test_an_update_of_a_consumer_keeps_what_is_not_ours() -> None:
    merged = merged_consumer(CONSUMER, {"max_waiting": 5, "backoff": [1], "ack_wait": 1})
    assert merged == CONSUMER | {"max_waiting": 5}


async def test_owners_are_found_beyond_the_first_page_of_streams() -> None:
    names = [f"stream-{number}" for number in range(25)]

    class Pages:
        async def request(self, subject: str, payload: bytes = b"", *, timeout: float) -> Any:
            offset = json.loads(payload)["offset"]
            answer = {"total": 25, "offset": offset, "streams": names[offset : offset + 10] or None}
            return type("Message", (), {"data": json.dumps(answer).encode()})

    assert await StreamApi(Pages()).streams_with("orders") == names


async def test_errors_are_told_apart_by_their_code() -> None:
    def answer(code: int, err_code: int) -> bytes:
        error = {"code": code, "err_code": err_code, "description": "stream not found"}
        return json.dumps({"error": error}).encode()

    assert await StreamApi(Answers(answer(404, 10059))).stream("s") is None
    with pytest.raises(ApiError) as raised:
        await StreamApi(Answers(answer(404, 10014))).stream("s")
    assert raised.value.err_code == 10014
    assert await StreamApi(Answers(answer(404, 10014))).consumer("s", "d") is None
    with pytest.raises(JetStreamUnavailableError):
        await StreamApi(Answers(answer(503, 10008))).stream("s")


@pytest.mark.parametrize("answer", [b"", b"[]", b"null", b"\xff"])
async def test_an_answer_that_is_none_is_an_error_of_the_connection(answer: bytes) -> None:
    with pytest.raises(NatsConnectionError, match="not"):
        await StreamApi(Answers(answer)).stream("s")
