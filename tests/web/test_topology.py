"""The stream and its consumers, as an API process without consumers sees them."""

from __future__ import annotations

import httpx
import pytest

from jetstream_bridge import Bridge
from jetstream_bridge.testing import Deliver, MockServer
from tests.web.conftest import DEAD, DURABLE, INCOMING, OUTGOING, STREAM


async def test_the_stream_its_subjects_and_their_owners_are_told(
    admin: httpx.AsyncClient, deliver: Deliver, mock_nats: MockServer
) -> None:
    await deliver.until_ready()
    mock_nats.put(OUTGOING, b"{}")
    state = (await admin.get("/admin/topology")).json()

    assert state["stream"]["name"] == STREAM
    assert (state["stream"]["exists"], state["stream"]["messages"]) == (True, 1)
    assert state["stream"]["retention"] == "workqueue"
    assert set(state["subjects"]) == {OUTGOING, INCOMING, DEAD}
    assert state["owners"] == {s: [STREAM] for s in (OUTGOING, INCOMING, DEAD)}
    assert (state["plan"], state["missing"], state["unknown"]) == ([], [], [])


async def test_consumers_are_told_with_their_lag(
    admin: httpx.AsyncClient, bridge: Bridge, deliver: Deliver, mock_nats: MockServer
) -> None:
    await deliver.until_ready()
    await bridge.stop()
    for number in range(3):
        mock_nats.put(INCOMING, b"%d" % number)
    state = (await admin.get("/admin/topology")).json()

    [consumer] = state["consumers"]
    # A request that was under way when the worker stopped may have been given one of them.
    in_hand = consumer["num_ack_pending"]
    assert in_hand <= 1
    assert consumer == {
        "name": DURABLE,
        "own": True,
        "filter_subject": INCOMING,
        "num_pending": 3 - in_hand,
        "num_ack_pending": in_hand,
        "num_redelivered": 0,
        "num_waiting": 0,
    }


async def test_what_is_missing_is_named_and_planned(
    admin: httpx.AsyncClient, mock_nats: MockServer
) -> None:
    without_consumer = (await admin.get("/admin/topology")).json()
    assert without_consumer["missing"] == [DURABLE]
    assert f"create consumer {DURABLE}" in without_consumer["plan"][0]

    mock_nats.drop_stream(STREAM)
    without_stream = (await admin.get("/admin/topology")).json()
    assert without_stream["stream"]["exists"] is False
    assert (without_stream["subjects"], without_stream["consumers"]) == ([], [])
    assert f"create stream {STREAM}" in without_stream["plan"][0]


async def test_consumers_of_other_services_are_told_apart(
    admin: httpx.AsyncClient, mock_nats: MockServer
) -> None:
    client = await mock_nats.connect()
    await client.jetstream().pull_subscribe(OUTGOING, "test-billing-workers", stream=STREAM)
    state = (await admin.get("/admin/topology")).json()
    await client.close()

    assert [(c["name"], c["own"]) for c in state["consumers"]] == [("test-billing-workers", False)]


async def test_what_may_not_be_asked_is_left_out_and_named(
    admin: httpx.AsyncClient, deliver: Deliver, mock_nats: MockServer
) -> None:
    await deliver.until_ready()
    for request in ("STREAM.NAMES", "CONSUMER.LIST.*"):
        mock_nats.faults.deny_publish(f"$JS.API.{request}")
    state = (await admin.get("/admin/topology")).json()

    assert state["stream"]["exists"] is True
    assert [consumer["name"] for consumer in state["consumers"]] == [DURABLE]
    assert (state["owners"], state["plan"]) == (None, None)
    about = {line.partition(":")[0] for line in state["unknown"]}
    assert about == {"owners", "the plan", "other consumers"}


@pytest.mark.parametrize("request_", ["STREAM.INFO.*", "CONSUMER.INFO.*.*"])
async def test_an_unpermitted_question_does_not_spoil_the_rest(
    admin: httpx.AsyncClient, deliver: Deliver, mock_nats: MockServer, request_: str
) -> None:
    await deliver.until_ready()
    mock_nats.faults.deny_publish(f"$JS.API.{request_}")
    answer = await admin.get("/admin/topology")

    assert answer.status_code == 200
    assert answer.json()["unknown"]
