"""Dead letters and the stream itself, looked at through JetStream: the mock and a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client
from nats.js.errors import NotFoundError as NotFoundError_
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge import Bridge, Consumers, Event, Unrecoverable
from jetstream_bridge.core.errors import NotFoundError, NotPossibleError
from jetstream_bridge.operations.dead_letter_queue import BulkOperation, LetterFilter
from jetstream_bridge.operations.queue_metrics import QueueMetrics
from tests.bridge.support import config, database, envelope, scalar
from tests.brokers import Broker
from tests.waiting import eventually
from tests.web.conftest import sample

INCOMING = "test.billing.sync.orders"
STREAM = "test-jetstream-bridge-stream"


class Service:
    """A service whose handler refuses everything for as long as it is told to."""

    def __init__(self, bridge: Bridge, engine: AsyncEngine, broker: Broker) -> None:
        self.bridge = bridge
        self.engine = engine
        self.broker = broker
        self.seen: list[str] = []
        self.refuses = True

    async def handle(self, event: Event[dict[str, object]]) -> None:
        if self.refuses:
            raise Unrecoverable("not wanted\r\nAt all: ünï")
        self.seen.append(event.event_id)

    async def send(self, *event_ids: str) -> None:
        client = await self.broker.connect()
        for event_id in event_ids:
            await client.jetstream().publish(
                INCOMING, envelope(event_id).encode(), headers={"x-custom": "kept"}
            )
        await client.close()

    async def has_letters(self, number: int) -> bool:
        return await self.bridge.letters.count() == number


@pytest.fixture
async def service(broker: Broker, sqlite_url: str) -> AsyncIterator[Service]:
    consumers = Consumers()
    async with database(sqlite_url) as (engine, sessions):
        bridge = Bridge(
            config(broker.url), sessions, consumers=consumers, make_client=broker.make_client
        )
        service = Service(bridge, engine, broker)
        consumers.on("order.changed")(service.handle)
        async with bridge:
            await eventually(lambda: all(check.ok for check in bridge.checks().values()))
            yield service


async def test_a_list_that_was_begun_in_a_stream_before_this_one_is_begun_again(
    service: Service,
) -> None:
    await service.send("e1", "e2", "e3")
    await eventually(lambda: service.has_letters(3))
    first = await service.bridge.letters.page(limit=2)
    client = await service.broker.connect()
    await client.jetstream().delete_stream(STREAM)
    await eventually(lambda: _has_stream(client), what="the stream is made again")
    await client.close()
    await service.send("e4")
    await eventually(lambda: service.has_letters(1))
    with pytest.raises(NotPossibleError, match="was made anew"):
        await service.bridge.letters.page(limit=2, after=first.next)
    again = await service.bridge.letters.page(limit=2)
    assert [letter.event_id for letter in again.items] == ["e4"]


async def _has_stream(client: Client) -> bool:
    try:
        await client.jetstream().consumer_info(STREAM, "test-orders-workers")
    except NotFoundError_:
        return False
    return True


async def test_letters_are_read_in_place_and_replayed_once(service: Service) -> None:
    await service.send("e1", "e2", "e3")
    await eventually(lambda: service.has_letters(3))
    letters = service.bridge.letters

    first = await letters.page(limit=2)
    rest = await letters.page(limit=2, after=first.next)
    assert [letter.event_id for letter in (*first.items, *rest.items)] == ["e1", "e2", "e3"]
    assert rest.next is None
    one = await letters.get(first.items[0].metadata.sequence)
    assert (one.error, one.original_subject) == ("not wanted\r\nAt all: ünï", INCOMING)
    assert one.body == envelope("e1").encode()
    assert one.metadata.headers["x-custom"] == "kept"
    assert one.metadata.timestamp.utcoffset() is not None
    assert await letters.count() == 3

    service.refuses = False
    await letters.replay(one)
    await letters.replay_many(
        BulkOperation(limit=10, letter_filter=LetterFilter(reason="unrecoverable"))
    )
    await eventually(lambda: service.seen == ["e1", "e2", "e3"])
    assert await letters.count() == 0
    with pytest.raises(NotFoundError):
        await letters.get(one.metadata.sequence)

    async def all_processed() -> bool:
        sql = "SELECT count(*) FROM jetstream_inbox_events WHERE status = 'processed'"
        return bool(await scalar(service.engine, sql) == 3)

    await eventually(all_processed)


async def test_a_letter_is_discarded_and_others_stay(service: Service) -> None:
    await service.send("e1", "e2")
    await eventually(lambda: service.has_letters(2))
    letters = service.bridge.letters
    page = await letters.page()

    await letters.discard(page.items[0].metadata.sequence)
    for _ in range(2):
        with pytest.raises(NotFoundError):
            await letters.discard(page.items[0].metadata.sequence)
    assert [letter.event_id for letter in (await letters.page()).items] == ["e2"]


async def test_a_letter_that_does_not_tell_where_it_came_from_stays(service: Service) -> None:
    client = await service.broker.connect()
    stored = await client.jetstream().publish("test.orders.sync.dlq", b"what is this")
    await client.close()
    letters = service.bridge.letters

    with pytest.raises(NotPossibleError, match="does not tell its original subject"):
        await letters.replay(await letters.get(stored.seq))
    assert (await letters.get(stored.seq)).body == b"what is this"


async def test_the_stream_and_its_consumers_are_seen(service: Service) -> None:
    await service.send("e1")
    await eventually(lambda: service.has_letters(1))
    state = await service.bridge.inspection.topology()

    assert state.stream is not None
    assert (state.stream.exists, state.stream.retention) == (True, "workqueue")
    assert state.owners is not None and set(state.owners) == set(state.stream.subjects)
    assert all(streams == [STREAM] for streams in state.owners.values())
    [consumer] = state.consumers
    assert (consumer.own, consumer.filter_subject) == (True, INCOMING)
    assert (state.plan, state.missing, state.unknown) == ([], [], [])
    assert await service.bridge.inspection.rtt() < 2


async def test_the_queues_are_measured(service: Service) -> None:
    await service.send("e1")
    await eventually(lambda: service.has_letters(1))
    bridge = service.bridge

    async def is_acknowledged() -> bool:  # which follows the letter
        return await bridge.inspection.lag() == 0

    await eventually(is_acknowledged)
    queues = QueueMetrics(service.engine, bridge.connection, bridge.inspection, bridge.letters)
    await queues.refresh()
    await queues.close()

    assert sample("bridge_dlq_messages") == 1
    assert sample("bridge_consumer_lag") == 0
    assert sample("bridge_nats_connected") == 1
