"""Whatever goes wrong on the way: nothing is lost, nothing takes effect twice, order stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import BaseModel
from sqlmodel import col, func, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import Bridge, Consumers, Event, Unrecoverable
from jetstream_bridge.inbox.tables import InboxEvent
from jetstream_bridge.outbox.tables import OutboxEvent
from jetstream_bridge.service.database import Database
from jetstream_bridge.testing import (
    Deliver,
    MockServer,
    Outcome,
    Published,
    VirtualClock,
    make_event,
)
from tests.waiting import eventually

STREAM = "test-jetstream-bridge-stream"
DURABLE = "test-orders-workers"
INCOMING = "test.billing.sync.orders"
OUTGOING = "test.orders.sync.billing"
DEAD = "test.orders.sync.dlq"


class Order(BaseModel):
    id: int


class Handler:
    """What the handler saw, and how it is to behave."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.error: Exception | None = None
        self.before: Callable[[], None] | None = None


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
def consumers(handler: Handler) -> Consumers:
    consumers = Consumers()

    @consumers.on("order.placed")
    async def handle(event: Event[Order]) -> None:
        handler.seen.append(event.payload.id)
        if handler.before is not None:
            handler.before()
        if handler.error is not None:
            raise handler.error

    return consumers


@pytest.fixture
async def ready(bridge: Bridge, clock: VirtualClock) -> Bridge:
    """A bridge that is up, with its stream and its consumer."""
    await eventually(lambda: all(check.ok for check in bridge.checks().values()))
    await clock.settle()
    return bridge


async def publish(bridge: Bridge, database: Database, *ids: int, resource: str = "r") -> None:
    async with database.sessions() as session:
        for number in ids:
            await bridge.publisher(session).publish(
                "order.placed", {"id": number}, resource_id=resource
            )
        await session.commit()


async def until(clock: VirtualClock, condition: Callable[[], bool]) -> None:
    """Let time pass, a second at a time, until `condition()`; an hour is too long."""
    for _ in range(3600):
        if condition():
            return
        await clock.advance("1s")
    raise AssertionError("it did not happen within an hour")


def numbers(published: Published) -> list[int]:
    return [event.payload["id"] for event in published]


async def attempts(database: Database) -> int:
    async with database.readers() as session:
        query = select(func.coalesce(func.sum(OutboxEvent.attempts), 0))
        return int((await session.exec(query)).one())


async def statuses(database: Database) -> list[str]:
    async with database.readers() as session:
        return [str(s) for s in await session.exec(select(OutboxEvent.status))]


# --- publishing


async def test_a_lost_ack_makes_no_second_copy_and_burns_nothing(
    ready: Bridge,
    database: Database,
    mock_nats: MockServer,
    clock: VirtualClock,
    published: Published,
) -> None:
    mock_nats.faults.lose_ack(OUTGOING)
    await publish(ready, database, 1)
    await eventually(lambda: numbers(published) == [1], limit=120)
    await clock.advance("30s")
    assert numbers(published) == [1]
    assert await statuses(database) == ["sent"]
    assert await attempts(database) == 0


@pytest.mark.parametrize("fault", ["lose_ack", "lose_publish"])
async def test_order_holds_whatever_is_lost(
    ready: Bridge,
    database: Database,
    mock_nats: MockServer,
    clock: VirtualClock,
    published: Published,
    fault: str,
) -> None:
    for lost in range(3):
        getattr(mock_nats.faults, fault)(OUTGOING)
        await publish(ready, database, *range(lost * 10, lost * 10 + 10))
        await clock.advance("30s")
    assert mock_nats.faults.pending == []
    assert numbers(published) == list(range(30))


async def test_an_ack_later_than_its_time_limit_makes_no_second_copy(
    ready: Bridge,
    database: Database,
    mock_nats: MockServer,
    clock: VirtualClock,
    published: Published,
) -> None:
    mock_nats.faults.delay_ack("20s", OUTGOING)
    await publish(ready, database, 1, 2)
    await eventually(lambda: numbers(published) == [1, 2], limit=120)
    await clock.advance("30s")
    assert numbers(published) == [1, 2]


@pytest.mark.parametrize("code", [10077, 10008, 10158, 10002])
async def test_what_passes_by_itself_burns_no_attempt(
    ready: Bridge,
    database: Database,
    mock_nats: MockServer,
    clock: VirtualClock,
    published: Published,
    code: int,
) -> None:
    mock_nats.faults.refuse_publish(code, OUTGOING, times=5)
    await publish(ready, database, 1, 2)
    await eventually(lambda: not ready.checks()["relay"].ok)
    await eventually(lambda: numbers(published) == [1, 2], limit=120)
    await clock.advance("30s")
    assert numbers(published) == [1, 2]
    assert await attempts(database) == 0
    assert ready.checks()["relay"].ok


async def test_a_refused_event_holds_its_resource_only(
    ready: Bridge,
    database: Database,
    mock_nats: MockServer,
    clock: VirtualClock,
    published: Published,
) -> None:
    mock_nats.faults.refuse_publish(10054, OUTGOING)
    await publish(ready, database, 1, 2, resource="a")
    await clock.advance("100ms")
    await publish(ready, database, 3, resource="b")
    await until(clock, lambda: len(published) == 3)
    assert numbers(published) == [3, 1, 2]
    assert await attempts(database) == 1


async def test_an_event_that_is_always_refused_ends_failed_and_frees_its_resource(
    ready: Bridge,
    database: Database,
    mock_nats: MockServer,
    clock: VirtualClock,
    published: Published,
) -> None:
    mock_nats.faults.refuse_publish(10054, OUTGOING, times=ready.config.outbox_max_attempts)
    await publish(ready, database, 1, 2, resource="a")
    await until(clock, lambda: len(published) == 1)
    assert mock_nats.faults.pending == []
    assert numbers(published) == [2]
    assert sorted(await statuses(database)) == ["failed", "sent"]


async def test_a_full_stream_is_waited_for(
    ready: Bridge,
    database: Database,
    mock_nats: MockServer,
    clock: VirtualClock,
    published: Published,
) -> None:
    mock_nats.fill(STREAM)
    await publish(ready, database, 1)
    await clock.advance("3m")
    assert numbers(published) == []
    assert "10077" in (ready.checks()["relay"].detail or "")
    mock_nats.fill(STREAM, full=False)
    await eventually(lambda: numbers(published) == [1], limit=120)
    await clock.advance("30s")
    assert numbers(published) == [1]


async def test_a_deleted_stream_is_made_again_for_the_next_event(
    ready: Bridge,
    database: Database,
    mock_nats: MockServer,
    clock: VirtualClock,
    published: Published,
) -> None:
    mock_nats.drop_stream(STREAM)
    await publish(ready, database, 1)
    await eventually(lambda: numbers(published) == [1], limit=120)
    await clock.advance("30s")
    assert numbers(published) == [1]
    assert await attempts(database) == 0


async def test_a_slow_server_slows_and_loses_nothing(
    ready: Bridge,
    database: Database,
    mock_nats: MockServer,
    clock: VirtualClock,
    published: Published,
) -> None:
    mock_nats.faults.slow("400ms")
    await publish(ready, database, *range(5))
    await eventually(lambda: numbers(published) == list(range(5)), limit=120)
    await clock.advance("30s")
    assert numbers(published) == list(range(5))


async def test_a_missing_right_to_publish_is_told_and_waited_for(
    ready: Bridge,
    database: Database,
    mock_nats: MockServer,
    clock: VirtualClock,
    published: Published,
) -> None:
    mock_nats.faults.deny_publish(OUTGOING)
    await publish(ready, database, 1)
    await clock.advance("30s")
    assert not ready.checks()["relay"].ok
    mock_nats.faults.permit(OUTGOING)
    await eventually(lambda: numbers(published) == [1], limit=120)
    await clock.advance("30s")
    assert numbers(published) == [1]
    assert await attempts(database) == 0


async def test_sent_rows_go_when_their_time_is_over(
    ready: Bridge, database: Database, clock: VirtualClock
) -> None:
    await publish(ready, database, 1)
    await clock.advance("1m")
    assert await statuses(database) == ["sent"]
    async with database.sessions() as session:  # as if it had been sent long ago
        past = func.strftime("%Y-%m-%d %H:%M:%S", "now", "-400 days")
        await session.exec(update(OutboxEvent).values(sent_at=past))
        await session.commit()
    await clock.advance("2m")
    assert await statuses(database) == []


@pytest.mark.parametrize("times", [1, 5])
async def test_restarts_lose_and_double_nothing(
    ready: Bridge,
    database: Database,
    mock_nats: MockServer,
    clock: VirtualClock,
    published: Published,
    times: int,
) -> None:
    for n in range(times):
        await publish(ready, database, 2 * n)
        mock_nats.disconnect("3s")
        await publish(ready, database, 2 * n + 1)
        await clock.advance("30s")
    await eventually(lambda: len(published) >= 2 * times, limit=120)
    assert numbers(published) == list(range(2 * times))
    assert await attempts(database) == 0


# --- consuming


async def test_a_lost_ack_of_a_delivery_runs_no_handler_twice(
    deliver: Deliver, mock_nats: MockServer, clock: VirtualClock, handler: Handler, bridge: Bridge
) -> None:
    mock_nats.faults.lose_answer()
    await deliver.until_ready()
    seq = mock_nats.put(INCOMING, deliver.body("order.placed", {"id": 1}))
    await clock.advance("5s")
    assert handler.seen == [1]
    assert mock_nats.answers == []
    await clock.advance(2 * bridge.config.ack_wait)
    assert handler.seen == [1]
    assert [(a.seq, a.word, a.delivery) for a in mock_nats.answers] == [(seq, "+ACK", 2)]


async def test_a_lost_nak_means_another_delivery_after_ack_wait(
    deliver: Deliver, mock_nats: MockServer, clock: VirtualClock, handler: Handler, bridge: Bridge
) -> None:
    handler.error = ValueError("once")
    mock_nats.faults.lose_answer()
    await deliver.until_ready()
    mock_nats.put(INCOMING, deliver.body("order.placed", {"id": 1}))
    await clock.advance("1s")
    handler.error = None
    await clock.advance(bridge.config.ack_wait - 3)
    assert handler.seen == [1]
    await clock.advance("5s")
    assert handler.seen == [1, 1]
    assert [a.word for a in mock_nats.answers] == ["+ACK"]


async def test_what_is_on_its_way_while_a_worker_stops_is_handed_back(
    ready: Bridge, deliver: Deliver, mock_nats: MockServer, handler: Handler
) -> None:
    """It would be heard of again only after `ack_wait`, and that one try would be wasted."""
    mock_nats.faults.slow("500ms")
    seq = mock_nats.put(INCOMING, deliver.body("order.placed", {"id": 1}))
    await ready.stop()
    assert handler.seen == []
    assert [(a.seq, a.word) for a in mock_nats.answers] == [(seq, "-NAK")]


@pytest.mark.parametrize("what", ["consumer", "stream"])
async def test_a_deleted_consumer_is_made_again(
    ready: Bridge, deliver: Deliver, mock_nats: MockServer, clock: VirtualClock, what: str
) -> None:
    assert (await deliver("order.placed", {"id": 1})).processed
    if what == "consumer":
        mock_nats.drop_consumer(STREAM, DURABLE)
    else:
        mock_nats.drop_stream(STREAM)
        mock_nats.answers.clear()
    await clock.advance("30s")
    assert DURABLE in mock_nats.streams[STREAM].consumers
    assert (await deliver("order.placed", {"id": 2})).processed
    assert ready.checks()["consumers"].ok


async def test_a_server_that_goes_while_a_handler_runs_makes_no_second_run(
    deliver: Deliver, mock_nats: MockServer, clock: VirtualClock, handler: Handler
) -> None:
    handler.before = lambda: mock_nats.disconnect("10s")
    await deliver.until_ready()
    mock_nats.put(INCOMING, deliver.body("order.placed", {"id": 1}))
    await clock.advance("5s")
    handler.before = None
    await clock.advance("2m")
    assert handler.seen == [1]
    assert mock_nats.answers[-1].word == "+ACK"


async def test_a_lost_dead_letter_is_written_again(
    deliver: Deliver,
    mock_nats: MockServer,
    handler: Handler,
    published: Published,
    clock: VirtualClock,
) -> None:
    handler.error = Unrecoverable("never")
    mock_nats.faults.lose_publish(DEAD)
    first = await deliver("order.placed", {"id": 1})
    assert first.outcome is Outcome.RETRIED, "nothing was acknowledged"
    await clock.advance("2m")
    assert [letter.payload for letter in published.dead_letters] == [{"id": 1}]
    assert mock_nats.answers[-1].word == "+ACK"


async def test_a_dead_letter_whose_ack_was_lost_is_in_the_stream_once(
    deliver: Deliver,
    mock_nats: MockServer,
    handler: Handler,
    published: Published,
    clock: VirtualClock,
) -> None:
    handler.error = Unrecoverable("never")
    mock_nats.faults.lose_ack(DEAD)
    await deliver("order.placed", {"id": 1})
    await clock.advance("2m")
    assert len(published.dead_letters) == 1
    assert mock_nats.answers[-1].word == "+ACK"


async def test_a_dead_letter_that_is_refused_is_parked(
    deliver: Deliver, mock_nats: MockServer, handler: Handler, session: AsyncSession
) -> None:
    handler.error = Unrecoverable("never")
    mock_nats.faults.refuse_publish(10054, DEAD)
    result = await deliver("order.placed", {"id": 1})
    assert result.outcome is Outcome.PARKED
    [row] = await session.exec(select(InboxEvent))
    assert (row.status, row.body is not None) == ("dead_lettered", True)


async def test_inbox_rows_go_when_their_time_is_over(
    deliver: Deliver, session: AsyncSession, bridge: Bridge, clock: VirtualClock
) -> None:
    await deliver("order.placed", {"id": 1})
    past = func.strftime("%Y-%m-%d %H:%M:%S", "now", "-400 days")
    await session.exec(update(InboxEvent).values(processed_at=past))
    await session.commit()
    await clock.advance("3m")
    count = await session.exec(select(func.count(col(InboxEvent.id))))
    assert count.one() == 0


async def test_events_of_one_resource_stay_in_order_while_one_is_retried(
    deliver: Deliver, mock_nats: MockServer, clock: VirtualClock, handler: Handler
) -> None:
    await deliver.until_ready()
    handler.error = ValueError("not yet")
    for n in range(3):
        mock_nats.put(INCOMING, deliver.body("order.placed", {"id": n}, resource_id="one"))
    await clock.advance("500ms")
    assert set(handler.seen) == {0}
    handler.error = None
    handler.seen.clear()
    await clock.advance("2m")
    assert handler.seen == [0, 1, 2]


# --- the connection


async def test_a_payload_violation_brings_a_new_client(
    ready: Bridge, database: Database, clock: VirtualClock, published: Published, deliver: Deliver
) -> None:
    client = ready.connection.client
    assert client is not None
    await client.publish(OUTGOING, b"x" * client.max_payload, headers={"one": "more"})
    await clock.advance("10s")
    assert ready.connection.client is not client
    await publish(ready, database, 1)
    await eventually(lambda: numbers(published) == [1], limit=60)
    assert (await deliver("order.placed", {"id": 2})).processed


async def test_a_missing_right_to_the_inbox_is_told_and_waited_for(
    bridge: Bridge, mock_nats: MockServer, clock: VirtualClock
) -> None:
    mock_nats.faults.deny_subscribe("_INBOX_orders.>")
    mock_nats.restart()
    await clock.advance("20s")
    checks = bridge.checks()
    assert not all(check.ok for check in checks.values())
    assert bridge.failures() == []
    mock_nats.faults.permit("_INBOX_orders.>")
    await clock.advance("5m")
    assert all(check.ok for check in bridge.checks().values())


async def test_an_api_that_gives_no_answer_for_a_while(
    bridge: Bridge, mock_nats: MockServer, clock: VirtualClock, deliver: Deliver
) -> None:
    mock_nats.faults.ignore_api("$JS.API.STREAM.>", times=5)
    await clock.advance("2m")
    assert all(check.ok for check in bridge.checks().values())
    assert (await deliver("order.placed", {"id": 2})).processed


async def test_no_task_dies_while_nothing_happens(ready: Bridge, clock: VirtualClock) -> None:
    await clock.advance("3m")
    assert ready.failures() == []
    assert all(check.ok for check in ready.checks().values())
    assert ready.connection.generation == 1


async def test_another_service_s_stream_owns_a_subject(
    mock_nats: MockServer, clock: VirtualClock, bridge: Bridge
) -> None:
    mock_nats.stop()
    mock_nats.streams.clear()
    mock_nats.start()
    other = await mock_nats.connect()
    await other.jetstream().add_stream(name="other", subjects=[OUTGOING])
    await other.close()
    await clock.advance("30s")
    assert "owned by stream other" in (bridge.checks()["stream"].detail or "")


def test_an_event_is_made_with_what_it_is_given() -> None:
    event = make_event("order.placed", {"id": 1}, trace_id="t", occurred_at=None)
    assert (event["resource_type"], event["resource_id"], event["trace_id"]) == ("order", "1", "t")
    assert "occurred_at" not in event
