"""What becomes of a durable consumer that is there already, on the mock and on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from jetstream_bridge.core.config import BridgeConfig, ConnectionOptions
from jetstream_bridge.core.errors import ConsumerMissingError, StreamMissingError, TopologyError
from jetstream_bridge.nats.connection import Connection
from jetstream_bridge.nats.management import StreamApi
from jetstream_bridge.topology.durable_names import durable_spec
from jetstream_bridge.topology.durables import Durables
from jetstream_bridge.topology.plan import new_stream
from tests.brokers import Broker

CONFIG = BridgeConfig(app_name="orders", destination_app="billing", env="test")
SPEC = durable_spec(CONFIG, None)
STREAM = CONFIG.stream
DURABLE = "test-orders-workers"
FILTER = "test.billing.sync.orders"
SUBJECTS = ["test.orders.sync.billing", FILTER, "test.orders.sync.dlq"]


class Place:
    """A stream, and what this service makes of its durable there."""

    def __init__(self, api: StreamApi) -> None:
        self.api = api

    def durables(self, **changes: Any) -> Durables:
        return Durables(self.api, replace(CONFIG, **changes))

    async def stream(self, **changes: Any) -> None:
        await self.api.create_stream(new_stream(replace(CONFIG, **changes), SUBJECTS))

    async def theirs(self, **config: Any) -> dict[str, Any]:
        settings = {"durable_name": DURABLE, "ack_policy": "explicit", "filter_subject": FILTER}
        return await self.api.put_consumer(STREAM, {**settings, **config})


@pytest.fixture
async def place(broker: Broker) -> AsyncIterator[Place]:
    connection = Connection(
        ConnectionOptions(urls=(broker.url,)), name="orders", make_client=broker.make_client
    )
    await connection.start()
    await connection.wait_connected(10)
    yield Place(StreamApi(connection))
    await connection.close(timeout=3)


async def test_what_differs_is_updated_in_place(place: Place) -> None:
    await place.stream()
    before = await place.theirs(max_deliver=10, ack_wait=5_000_000_000, description="by hand")
    assert await place.durables().plan(SPEC) != []
    info = await place.durables().ensure(SPEC)
    assert info is not None
    assert (info.config.max_deliver, info.config.ack_wait) == (-1, 30)
    assert info.config.description == "by hand"
    after = await place.api.consumer(STREAM, DURABLE)
    assert after is not None
    assert after["created"] == before["created"]
    assert await place.durables().plan(SPEC) == []


@pytest.mark.parametrize("already", [False, True])
async def test_as_much_is_out_at_once_as_the_server_allows(place: Place, already: bool) -> None:
    await place.stream()
    stream = await place.api.stream(STREAM)
    assert stream is not None
    await place.api.update_stream({**stream, "consumer_limits": {"max_ack_pending": 1000}})
    if already:
        await place.theirs(max_ack_pending=500)
    durables = place.durables()
    info = await durables.ensure(SPEC)
    assert info is not None
    assert info.config.max_ack_pending == 1000
    assert durables.problem is None
    assert await durables.plan(SPEC) == []
    again = await durables.ensure(SPEC)
    assert again is not None
    assert again.created == info.created


async def test_another_filter_is_corrected(place: Place) -> None:
    await place.stream()
    await place.theirs(filter_subject=SUBJECTS[0])
    info = await place.durables().ensure(SPEC)
    assert info is not None
    assert info.config.filter_subject == FILTER


async def test_on_a_stream_that_keeps_messages_what_cannot_be_updated_is_left(
    place: Place,
) -> None:
    await place.stream(retention="limits", max_age=60.0)
    await place.theirs(deliver_policy="new")
    durables = place.durables()
    with pytest.raises(TopologyError, match=r"would be given every message .* delete the consumer"):
        await durables.ensure(SPEC)
    assert "cannot be updated" in (durables.problem or "")
    await place.api.delete_consumer(STREAM, DURABLE)
    await place.api.delete_consumer(STREAM, DURABLE)  # it is gone, and that was wanted
    await durables.ensure(SPEC)
    assert durables.problem is None


async def test_a_reader_of_everything_is_named(place: Place) -> None:
    await place.stream()
    await place.theirs(durable_name="everything", filter_subject="")
    with pytest.raises(TopologyError, match="is read by consumer everything already"):
        await place.durables().ensure(SPEC)


async def test_bound_only_a_difference_is_told_and_left(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await place.stream()
    await place.theirs(max_deliver=10)
    info = await place.durables(auto_provision=False).ensure(SPEC)
    assert info is not None
    assert info.config.max_deliver == 10
    assert "differs: max_deliver" in caplog.text


async def test_bound_only_a_reader_of_other_subjects_is_refused(place: Place) -> None:
    await place.stream()
    await place.theirs(filter_subject=SUBJECTS[0])
    with pytest.raises(TopologyError, match="correct its filter"):
        await place.durables(auto_provision=False).ensure(SPEC)


async def test_bound_only_a_reader_of_everything_will_do(place: Place) -> None:
    await place.stream()
    await place.theirs(filter_subject="")
    assert await place.durables(auto_provision=False).ensure(SPEC) is not None


async def test_bound_only_what_is_missing_is_named(place: Place) -> None:
    await place.stream()
    with pytest.raises(ConsumerMissingError, match=f"{DURABLE} does not exist"):
        await place.durables(auto_provision=False).ensure(SPEC)


@pytest.mark.parametrize("auto_provision", [True, False])
async def test_without_a_stream_there_is_no_consumer(place: Place, auto_provision: bool) -> None:
    durables = place.durables(auto_provision=auto_provision)
    with pytest.raises(StreamMissingError, match="does not exist"):
        await durables.ensure(SPEC)
    assert await durables.plan(SPEC) == [f"create consumer {DURABLE} for subject {FILTER}"]


async def test_many_streams_and_consumers_are_read_page_by_page(place: Place) -> None:
    """A page of consumers has 256."""
    await place.stream()
    for first in range(0, 260, 20):  # no request waits behind all others on a busy machine
        await asyncio.gather(
            *(
                place.theirs(durable_name=f"c{n}", filter_subject=f"test.c{n}.sync.orders")
                for n in range(first, first + 20)
            )
        )
    found = [info["name"] for info in await place.api.consumers(STREAM)]
    assert sorted(found) == sorted(f"c{n}" for n in range(260))


async def test_names_that_are_not_there_are_none(place: Place) -> None:
    assert await place.api.streams_with("nothing.here") == []
    assert await place.api.stream("nothing") is None
