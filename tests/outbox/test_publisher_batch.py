"""A batch: one statement or many in flight, and what became of each event."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge import Bridge, Linear, PublishBatch
from jetstream_bridge.core.errors import (
    BatchPublishError,
    BatchStateError,
    InvalidEventError,
    PublishRefusedError,
    PublishUnavailableError,
    UnknownSubjectError,
)
from tests.bridge.support import Sessions, config, database, scalar
from tests.brokers import Broker, MockBroker, broker_of
from tests.outbox.test_publisher import bridge
from tests.outbox.test_relay import all_sent, relaying, stored
from tests.waiting import eventually

COUNT = "SELECT count(*) FROM jetstream_outbox_events"


def statements_of(engine: AsyncEngine) -> list[str]:
    """A list that grows with each statement sent to the database from now on."""
    statements: list[str] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def count(conn: object, cursor: object, statement: str, *rest: object) -> None:
        statements.append(statement)

    return statements


@asynccontextmanager
async def direct(sessions: Sessions, broker: Broker, **changes: Any) -> AsyncIterator[Bridge]:
    """A bridge that sends at once, connected and with its stream."""
    under_test = Bridge(
        config(broker.url, use_outbox=False, **changes), sessions, make_client=broker.make_client
    )
    async with under_test:
        await eventually(lambda: under_test.topology.problem is None)
        yield under_test


async def add_all(
    batch: PublishBatch, *payloads: dict[str, Any], subject: str | None = None
) -> None:
    async with batch:
        for payload in payloads:
            batch.add("order.placed", payload, subject=subject)


@pytest.fixture
async def mock() -> AsyncIterator[MockBroker]:
    """The mock alone, for faults that a real server cannot be told to have."""
    async with broker_of("mock") as broker:
        assert isinstance(broker, MockBroker)
        yield broker


# --- with the outbox


def with_relay(sessions: Sessions) -> Bridge:
    """A bridge that is not started, in whose process a relay would run: nobody is notified."""
    return Bridge(config("nats://127.0.0.1:1"), sessions, relay=True)


async def test_a_batch_is_one_statement_of_the_callers_transaction(database_url: str) -> None:
    async with database(database_url) as (engine, sessions), sessions() as session:
        await session.connection()
        statements = statements_of(engine)
        async with with_relay(sessions).publisher(session).publish_batch() as batch:
            for number in range(500):
                batch.add("order.placed", {"id": number})
        assert statements == [], "the rows come with the commit"
        await session.commit()
        assert len(statements) == 1, statements
        assert await scalar(engine, COUNT) == 500
        assert len(batch.result) == 500
        assert batch.result.success


async def test_chosen_ids_cost_one_more_statement_for_all_and_duplicates_are_told(
    database_url: str,
) -> None:
    async with database(database_url) as (engine, sessions):
        under_test = with_relay(sessions)
        async with sessions() as session:
            await under_test.publisher(session).publish("a.b", {}, event_id="known")
            await session.commit()
        async with sessions() as session:
            await session.connection()
            statements = statements_of(engine)
            events = under_test.publisher(session)
            await events.publish("a.b", {}, event_id="pending")
            before = len(statements)
            async with events.publish_batch() as batch:
                for event_id in ("known", "new", "pending", "new"):
                    batch.add("a.b", {}, event_id=event_id)
            assert len(statements) == before + 1
            await session.commit()
            assert len(statements) == before + 2
        assert [r.duplicate for r in batch.result] == [True, False, True, True]
        assert [r.event_id for r in batch.result.duplicates] == ["known", "pending", "new"]
        assert batch.result.success
        assert await scalar(engine, COUNT) == 3


async def test_an_error_in_the_block_publishes_nothing_of_the_batch(sqlite_url: str) -> None:
    async with database(sqlite_url) as (engine, sessions), sessions() as session:
        events = bridge(sessions).publisher(session)
        await events.publish("order.placed", {"id": "outside"})
        batch = events.publish_batch()

        async def import_something() -> None:
            async with batch:
                batch.add("order.placed", {"id": 1})
                raise LookupError("no such thing")

        with pytest.raises(LookupError):
            await import_something()
        await session.commit()
        assert await scalar(engine, COUNT) == 1
        with pytest.raises(BatchStateError, match="not at all when an error leaves"):
            _ = batch.result


async def test_a_bad_event_ends_the_block_and_says_which_it_is(sqlite_url: str) -> None:
    async with database(sqlite_url) as (engine, sessions), sessions() as session:
        batch = bridge(sessions).publisher(session).publish_batch()
        with pytest.raises(InvalidEventError, match=r"event 2 of the batch: .*JSON"):
            await add_all(batch, {"id": 1}, {"id": float("nan")})
        await session.commit()
        assert await scalar(engine, COUNT) == 0


async def test_who_catches_a_bad_event_publishes_the_others(sqlite_url: str) -> None:
    async with database(sqlite_url) as (engine, sessions), sessions() as session:
        async with bridge(sessions).publisher(session).publish_batch() as batch:
            for value in (1, float("nan"), 3):
                try:
                    batch.add("order.placed", {"id": value}, event_id=f"e{value}")
                except InvalidEventError:
                    continue
        await session.commit()
        assert await scalar(engine, COUNT) == 2
        result = batch.result
        assert [r.success for r in result] == [True, False, True]
        assert (result.success, result.partial_success) == (False, True)
        assert [r.event_id for r in result.succeeded] == ["e1", "e3"]
        [failed] = result.failed
        assert failed is result[1]
        assert failed.event_id == "enan"
        with pytest.raises(
            BatchPublishError, match=r"1 of 3 events .* event 2 \(enan\): event 2 of the batch"
        ) as raised:
            result.raise_on_failure()
        assert raised.value.result is result
        with pytest.raises(InvalidEventError):
            failed.raise_on_failure()


async def test_a_batch_without_events_is_a_success(sqlite_url: str, broker: Broker) -> None:
    async with database(sqlite_url) as (_, sessions), sessions() as session:
        for under_test in (bridge(sessions), bridge(sessions, use_outbox=False)):
            async with under_test.publisher(session).publish_batch() as batch:
                assert len(batch) == 0
            assert batch.result.raise_on_failure().success
            assert not batch.result.partial_success


async def test_a_batch_is_used_once_and_inside_its_block(sqlite_url: str) -> None:
    async with database(sqlite_url) as (_, sessions), sessions() as session:
        batch = bridge(sessions).publisher(session).publish_batch()
        with pytest.raises(BatchStateError, match="inside its `async with` block"):
            batch.add("a.b", {})
        async with batch:
            batch.add("a.b", {})
            assert len(batch) == 1
            with pytest.raises(BatchStateError, match="when its `async with` block ends"):
                _ = batch.result
            with pytest.raises(BatchStateError, match="used before"):
                await batch.__aenter__()
        with pytest.raises(BatchStateError, match="inside its `async with` block"):
            batch.add("a.b", {})
        with pytest.raises(BatchStateError, match="used before"):
            async with batch:
                pytest.fail("it was used")
        await session.rollback()


async def test_a_subject_that_the_stream_does_not_take_publishes_nothing_of_the_batch(
    sqlite_url: str, broker: Broker
) -> None:
    async with database(sqlite_url) as (engine, sessions):
        under_test = relaying(config(broker.url), sessions, broker)
        async with under_test, sessions() as session:
            await eventually(lambda: under_test.topology.problem is None)
            batch = under_test.publisher(session).publish_batch()
            with pytest.raises(UnknownSubjectError, match=r"nobody\.listens"):
                await add_all(batch, {}, {}, subject="nobody.listens")
            await session.commit()
            assert await scalar(engine, COUNT) == 0


async def test_the_events_of_a_batch_reach_the_stream(sqlite_url: str, broker: Broker) -> None:
    async with database(sqlite_url) as (engine, sessions):
        under_test = relaying(config(broker.url), sessions, broker)
        async with under_test:
            async with sessions() as session:
                async with under_test.publisher(session).publish_batch() as batch:
                    for number in range(50):
                        batch.add("order.placed", {"id": number % 5, "n": number})
                await session.commit()
            await eventually(all_sent(engine, 50))
        assert await order_of(broker) == {str(r): list(range(r, 50, 5)) for r in range(5)}


async def order_of(broker: Broker) -> dict[str, list[int]]:
    """For each resource the numbers of its events, in the stream's order."""
    found: dict[str, list[int]] = defaultdict(list)
    for message in await stored(broker):
        body = json.loads(message.data or b"")
        found[body["resource_id"]].append(body["payload"]["n"])
    return dict(found)


# --- without the outbox


async def test_a_batch_is_sent_many_at_a_time_and_in_order_of_its_resources(
    sqlite_url: str, broker: Broker
) -> None:
    async with database(sqlite_url) as (_, sessions), direct(sessions, broker) as under_test:
        async with (
            sessions() as session,
            under_test.publisher(session).publish_batch() as batch,
        ):
            for number in range(300):
                batch.add("order.placed", {"id": number % 30, "n": number})
        assert batch.result.success
        assert await order_of(broker) == {str(r): list(range(r, 300, 30)) for r in range(30)}


async def test_a_batch_does_not_wait_for_one_answer_before_the_next_event(
    sqlite_url: str, mock: MockBroker
) -> None:
    """With 1 s to the server and back, 200 events of as many resources take not 200 s but few."""
    async with (
        database(sqlite_url) as (_, sessions),
        direct(sessions, mock) as under_test,
        sessions() as session,
    ):
        mock.server.faults.delay_ack("1s", times=200)
        started = mock.clock.time
        async with under_test.publisher(session).publish_batch() as batch:
            for number in range(200):
                batch.add("order.placed", {"id": number})
        assert batch.result.success
        assert mock.clock.time - started < 3


async def test_one_id_twice_in_a_batch_is_one_message(sqlite_url: str, broker: Broker) -> None:
    async with database(sqlite_url) as (_, sessions), direct(sessions, broker) as under_test:
        async with (
            sessions() as session,
            under_test.publisher(session).publish_batch() as batch,
        ):
            batch.add("a.b", {"id": 1}, event_id="mine")
            batch.add("a.b", {"id": 1}, event_id="mine")
        assert [r.duplicate for r in batch.result] == [False, True]
        assert len(await stored(broker)) == 1


async def test_without_nats_each_event_of_a_batch_is_told_as_failed(sqlite_url: str) -> None:
    async with database(sqlite_url) as (_, sessions), sessions() as session:
        under_test = bridge(sessions, use_outbox=False, publish_retry=Linear(attempts=1))
        async with under_test.publisher(session).publish_batch() as batch:
            batch.add("a.b", {"id": 1})
            batch.add("a.b", {"id": 2})
        result = batch.result
        assert (result.success, result.partial_success) == (False, False)
        first, second = (r.error for r in result)
        assert isinstance(first, PublishUnavailableError)
        assert (first.tries, first.event_id) == (1, result[0].event_id)
        assert "after 1 try in 0.0 s: not connected to NATS" in str(first)
        assert isinstance(second, PublishUnavailableError)
        assert second.tries == 0
        assert "it was not its turn yet" in str(second)


async def test_a_refused_event_spoils_neither_its_followers_nor_the_others(
    sqlite_url: str, mock: MockBroker
) -> None:
    async with (
        database(sqlite_url) as (_, sessions),
        direct(sessions, mock) as under_test,
        sessions() as session,
    ):
        mock.server.faults.refuse_publish(10060)
        async with under_test.publisher(session).publish_batch() as batch:
            for number in range(4):
                batch.add("a.b", {"id": number // 2, "n": number})
        assert [r.success for r in batch.result] == [False, True, True, True]
        assert batch.result.partial_success
        error = batch.result[0].error
        assert isinstance(error, PublishRefusedError)
        assert error.tries == 1
        assert "10060" in str(error)
        assert await order_of(mock) == {"0": [1], "1": [2, 3]}
