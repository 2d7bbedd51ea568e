"""One id, two events: the stream drops the second, and that is told and not called sent."""

from __future__ import annotations

import logging

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge.outbox.duplicates import MOST
from jetstream_bridge.outbox.relay_notes import Note, RelayNotes
from tests.bridge.support import config, database, enqueue, envelope, rows
from tests.brokers import Broker, MockBroker
from tests.outbox.test_publisher_batch import mock
from tests.outbox.test_relay import (
    STREAM,
    SUBJECT,
    all_sent,
    create_stream,
    many,
    relaying,
    settled,
    stored,
)
from tests.waiting import eventually

__all__ = ["mock"]  # a fixture

THEIRS = "test.billing.sync.orders"


async def publish_as(broker: Broker, event_id: str, subject: str, body: str) -> None:
    client = await broker.connect()
    await client.jetstream().publish(subject, body.encode(), headers={"Nats-Msg-Id": event_id})
    await client.close()


async def failed(engine: AsyncEngine) -> list[tuple[str, int, str]]:
    found = await rows(
        engine,
        "SELECT event_id, attempts, last_error FROM jetstream_outbox_events "
        "WHERE status = 'failed' ORDER BY id",
    )
    return [tuple(row) for row in found]


async def test_an_event_that_was_dropped_for_anothers_with_its_id_has_failed(
    database_url: str, broker: Broker
) -> None:
    """Its neighbours, and what comes after it, are sent."""
    await create_stream(broker)
    await publish_as(broker, "e1", THEIRS, envelope("e1"))
    await publish_as(broker, "e2", SUBJECT, envelope("e2", other="content"))
    async with database(database_url) as (engine, sessions):
        await enqueue(engine, many(5, resources=1), subject=SUBJECT)
        bridge = relaying(config(broker.url), sessions, broker)
        async with bridge:
            await eventually(settled(engine, failed=2, sent=3))
            assert bridge.checks()["relay"].ok
        first, second = await failed(engine)
        assert (first[:2], second[:2]) == (("e1", 1), ("e2", 1))
        assert f"as number 1 on '{THEIRS}', and dropped this one; give each event an id" in first[2]
        assert f"as number 2 on '{SUBJECT}'" in second[2]


async def test_an_event_that_the_stream_has_already_is_sent(
    database_url: str, broker: Broker
) -> None:
    """A relay that died after publishing, and before it could write that down."""
    await create_stream(broker)
    events = many(3, resources=1)
    for event in events:
        await publish_as(broker, event["event_id"], SUBJECT, event["payload"])
    async with database(database_url) as (engine, sessions):
        await enqueue(engine, events, subject=SUBJECT)
        async with relaying(config(broker.url), sessions, broker):
            await eventually(all_sent(engine, 3))
        assert len(await stored(broker)) == 3


async def test_an_event_is_dropped_too_for_one_that_was_consumed_meanwhile(
    sqlite_url: str, broker: Broker
) -> None:
    """A work queue forgets it. But no relay has sent this event before."""
    await create_stream(broker)
    await publish_as(broker, "e0", THEIRS, "{}")
    await delete_first(broker)
    async with database(sqlite_url) as (engine, sessions):
        await enqueue(engine, many(2, resources=1), subject=SUBJECT)
        async with relaying(config(broker.url), sessions, broker):
            await eventually(settled(engine, failed=1, sent=1))
        [(event_id, _, error)] = await failed(engine)
        assert event_id == "e0"
        assert "had another event with this id, as number 1, which is gone since" in error


async def test_what_a_relay_may_have_sent_before_its_end_is_no_other_event(
    sqlite_url: str, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """Its note is there still: it published, and could not write down that it did."""
    await create_stream(broker)
    await publish_as(broker, "e0", SUBJECT, envelope("e0", n=0))
    await delete_first(broker)
    async with database(sqlite_url) as (engine, sessions):
        note = Note("a relay that is no more", "", 0, (SUBJECT,))
        await RelayNotes(engine).write(note, lasts=3600)
        await enqueue(engine, many(2, resources=1), subject=SUBJECT)
        with caplog.at_level(logging.WARNING):
            async with relaying(config(broker.url), sessions, broker):
                await eventually(all_sent(engine, 2))
    assert "took 1 events, e0 first, for repetitions of what is gone" in caplog.text


async def test_after_the_end_of_a_relay_was_looked_into_its_ids_may_still_be_known(
    sqlite_url: str, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    await create_stream(broker)
    await publish_as(broker, "e0", SUBJECT, envelope("e0", n=0))
    await delete_first(broker)
    async with database(sqlite_url) as (engine, sessions):
        note = Note("a relay that is no more", "", 0, (SUBJECT,))
        await RelayNotes(engine).write(note, lasts=0.0)
        await enqueue(engine, many(2, resources=1), subject=SUBJECT)
        with caplog.at_level(logging.WARNING):
            async with relaying(config(broker.url), sessions, broker):
                await eventually(all_sent(engine, 2))
    assert "took 1 events, e0 first, for repetitions of what is gone" in caplog.text


async def delete_first(broker: Broker) -> None:
    client = await broker.connect()
    await client.jetstream().delete_msg(STREAM, 1)
    await client.close()


async def test_who_may_not_read_the_stream_takes_duplicates_for_repetitions(
    sqlite_url: str, mock: MockBroker, caplog: pytest.LogCaptureFixture
) -> None:
    await create_stream(mock)
    await publish_as(mock, "e0", THEIRS, "{}")
    mock.server.faults.deny_publish(f"$JS.API.STREAM.MSG.GET.{STREAM}")
    async with database(sqlite_url) as (engine, sessions):
        await enqueue(engine, many(2, resources=1), subject=SUBJECT)
        with caplog.at_level(logging.WARNING):
            async with relaying(config(mock.url), sessions, mock):
                await eventually(all_sent(engine, 2))
    assert "duplicates were not compared with what is stored: NATS does not permit" in caplog.text


def test_what_is_compared_at_once_covers_a_claim() -> None:
    assert config("nats://localhost").relay_batch_size <= MOST
