"""Nothing is in the stream twice, however long the database was away or a relay was dead."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge import BridgeConfig
from jetstream_bridge.nats.connection import Connection
from jetstream_bridge.nats.management import StreamApi
from jetstream_bridge.outbox.relay_notes import Note, RelayNotes
from jetstream_bridge.outbox.unconfirmed import UnconfirmedEvents
from jetstream_bridge.testing import MockServer
from jetstream_bridge.testing.postgres import PostgresServer
from jetstream_bridge.testing.servers import NatsServer
from tests.bridge.support import (
    config,
    database,
    enqueue,
    envelope,
    rows,
    scalar,
    statements,
)
from tests.brokers import Broker, MockBroker, RealBroker, broker_of, on_nats_server
from tests.outbox.test_relay import (
    STREAM,
    SUBJECT,
    all_sent,
    assert_in_order,
    counts,
    ids,
    many,
    relaying,
)
from tests.processes import import_path
from tests.waiting import eventually

WINDOW = 2.0  # seconds for which the stream knows an id
LONGER = 4.0
NUMBER = 60


def settings(url: str, **changes: Any) -> BridgeConfig:
    return config(url, duplicate_window=WINDOW, retention="limits", max_age=3600.0, **changes)


class Outage:
    """A database that goes away when the first rows are to be marked as sent."""

    def __init__(self) -> None:
        self.expected = True
        self.lasts = False

    def end(self) -> None:
        self.expected = self.lasts = False


@contextmanager
def outage(engine: AsyncEngine) -> Iterator[Outage]:
    state = Outage()

    def refuse(conn: object, cursor: object, statement: str, *_: object) -> None:
        if state.expected and "SET status = 'sent'" in statement:
            state.lasts = True
        if state.lasts:
            raise OperationalError(statement, {}, Exception("gone"))

    event.listen(engine.sync_engine, "before_cursor_execute", refuse)
    yield state
    event.remove(engine.sync_engine, "before_cursor_execute", refuse)


async def test_a_relay_remembers_what_it_sent_while_the_database_was_away(
    database_url: str, broker: Broker
) -> None:
    async with database(database_url) as (engine, sessions):
        await enqueue(engine, many(NUMBER, resources=6), subject=SUBJECT)
        with outage(engine) as away:
            async with relaying(settings(broker.url), sessions, broker) as bridge:
                await eventually(lambda: away.lasts)
                await eventually(lambda: not bridge.checks()["relay"].ok)
                await broker.passes(LONGER)
                seen = statements(engine)
                away.end()
                await eventually(all_sent(engine, NUMBER), limit=20)
        assert not any("SELECT holder" in statement for statement in seen), "nothing was in doubt"
        await assert_in_order(broker, NUMBER)


async def test_what_a_dead_relay_sent_is_looked_for_before_anything_is_sent(
    database_url: str, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    async with database(database_url) as (engine, sessions):
        await enqueue(engine, many(NUMBER, resources=6), subject=SUBJECT)
        with outage(engine) as away:
            async with relaying(settings(broker.url), sessions, broker):
                await eventually(lambda: away.lasts)
            before = len(await ids(broker))
            assert before
            away.end()
            await broker.passes(LONGER)
            async with relaying(settings(broker.url), sessions, broker):
                await eventually(all_sent(engine, NUMBER), limit=20)
                await eventually(no_note_but_one(engine))
        await assert_in_order(broker, NUMBER)
        assert f"{before} events were in the stream already" in caplog.text


def no_note_but_one(engine: AsyncEngine) -> Any:
    async def condition() -> bool:
        return bool(await scalar(engine, "SELECT count(*) FROM jetstream_relay_notes") == 1)

    return condition


async def test_another_relay_waits_until_it_is_known_what_a_dead_one_sent(
    postgres_url: str, broker: Broker
) -> None:
    """Those that died and those that live see the same database; half the lanes were claimed."""
    async with database(postgres_url) as (engine, sessions):
        await enqueue(engine, many(NUMBER, resources=30), subject=SUBJECT)
        with outage(engine) as away:
            async with relaying(settings(broker.url), sessions, broker):
                await eventually(lambda: away.lasts)
            away.end()
            await broker.passes(LONGER)
            async with (
                relaying(settings(broker.url), sessions, broker),
                relaying(settings(broker.url), sessions, broker),
            ):
                await eventually(all_sent(engine, NUMBER), limit=20)
        await assert_in_order(broker, NUMBER)


async def test_a_message_that_was_never_answered_is_looked_for(sqlite_url: str) -> None:
    """The way to NATS was cut after it was sent, for longer than the stream knows its id."""
    async with (
        broker_of("mock") as broker,
        database(sqlite_url) as (engine, sessions),
    ):
        assert isinstance(broker, MockBroker)
        async with relaying(settings(broker.url), sessions, broker) as bridge:
            await eventually(lambda: bridge.checks()["relay"].ok)
            broker.server.faults.lose_ack(times=1000)
            await enqueue(engine, many(NUMBER, resources=6), subject=SUBJECT)
            await eventually(lambda: len(broker.server.stored) == 6)
            broker.server.stop()
            broker.server.faults.clear()
            await eventually(lambda: not bridge.checks()["relay"].ok)
            await broker.passes(LONGER)
            broker.server.start()
            await eventually(all_sent(engine, NUMBER), limit=20)
        await assert_in_order(broker, NUMBER)


async def test_a_note_that_is_older_than_the_stream_runs_out_in_time(
    sqlite_url: str, mock_nats: MockServer
) -> None:
    """It was written when a new stream's duplicate window could not be read yet."""
    async with database(sqlite_url) as (engine, _):
        options = settings(mock_nats.url).connection
        connection = Connection(options, name="orders", make_client=mock_nats.client)
        await connection.start()
        await connection.wait_connected(10)
        unconfirmed = UnconfirmedEvents(
            RelayNotes(engine), StreamApi(connection), "none", window=WINDOW
        )
        await unconfirmed.note([SUBJECT])
        in_a_window = "strftime('%Y-%m-%d %H:%M:%f000', 'now', '+2 seconds')"
        stale = f"SELECT count(*) FROM jetstream_relay_notes WHERE stale_at < {in_a_window}"
        assert await scalar(engine, stale) == 1
        await connection.close(timeout=3)


async def test_a_subject_that_nobody_can_ask_for_is_not_noted(
    sqlite_url: str, mock_nats: MockServer
) -> None:
    async with database(sqlite_url) as (engine, _), doubting(engine, mock_nats) as unconfirmed:
        await unconfirmed.note([SUBJECT, "", "a b", "a.*", "a.\udcff"])
        assert unconfirmed.allow([SUBJECT, "", "a.*"], noted=True)
        noted = "SELECT subjects FROM jetstream_relay_notes WHERE holder <> 'dead'"
        assert await scalar(engine, noted) == f'["{SUBJECT}"]'
        assert await unconfirmed.resolve()


async def test_a_stream_that_was_made_anew_gets_what_it_does_not_have(
    database_url: str, broker: Broker
) -> None:
    async with database(database_url) as (engine, sessions):
        await enqueue(engine, many(NUMBER, resources=6), subject=SUBJECT)
        with outage(engine) as away:
            async with relaying(settings(broker.url), sessions, broker):
                await eventually(lambda: away.lasts)
            client = await broker.connect()
            await client.jetstream().delete_stream(STREAM)
            await client.close()
            away.end()
            await broker.passes(LONGER)
            async with relaying(settings(broker.url), sessions, broker):
                await eventually(all_sent(engine, NUMBER), limit=20)
        await assert_in_order(broker, NUMBER)


async def test_followers_of_what_is_found_go_on(sqlite_url: str, mock_nats: MockServer) -> None:
    async with database(sqlite_url) as (engine, _), doubting(engine, mock_nats) as unconfirmed:
        await enqueue(engine, many(3, resources=1), subject=SUBJECT)
        async with engine.begin() as connection:
            await connection.execute(
                text(
                    "UPDATE jetstream_outbox_events SET held = true, "
                    "retry_at = CASE event_id WHEN 'e0' THEN '2100-01-01' END"
                )
            )
        mock_nats.put(SUBJECT, b"{}", {"nats-msg-id": "e0"})  # as a gem's reader wants it
        assert await unconfirmed.resolve()
        found = await rows(engine, "SELECT status, held FROM jetstream_outbox_events ORDER BY id")
        assert [tuple(row) for row in found] == [("sent", 0), ("pending", 0), ("pending", 0)]


@asynccontextmanager
async def doubting(
    engine: AsyncEngine, server: MockServer, *subjects: str
) -> AsyncIterator[UnconfirmedEvents]:
    """A relay that has to look for what another one published on `subjects`."""
    client = await server.connect()
    await client.jetstream().add_stream(name="S", subjects=["test.>"])
    await client.close()
    options = settings(server.url).connection
    connection = Connection(options, name="orders", make_client=server.client)
    await connection.start()
    await connection.wait_connected(10)
    notes = RelayNotes(engine)
    created = (await StreamApi(connection).stream_info("S") or {})["created"]
    await notes.write(Note("dead", created, 0, subjects or (SUBJECT,)), lasts=0.0)
    yield UnconfirmedEvents(notes, StreamApi(connection), "S", window=WINDOW)
    await connection.close(timeout=3)


@pytest.mark.parametrize("subjects", [(SUBJECT, "test.else"), (">",)])
async def test_only_what_the_stream_has_is_marked_wherever_it_lies(
    sqlite_url: str,
    mock_nats: MockServer,
    monkeypatch: pytest.MonkeyPatch,
    subjects: tuple[str, ...],
) -> None:
    monkeypatch.setattr("jetstream_bridge.outbox.unconfirmed.READERS", 3)
    monkeypatch.setattr("jetstream_bridge.outbox.unconfirmed.PORTION", 4)
    async with (
        database(sqlite_url) as (engine, _),
        doubting(engine, mock_nats, *subjects) as unconfirmed,
    ):
        await enqueue(engine, many(60, resources=60), subject=SUBJECT)
        for n in range(60):
            if n % 2 == 0:
                mock_nats.put("test.foreign", b"{}", {"Nats-Msg-Id": f"f{n}"})
            if n % 3 == 0:
                subject = SUBJECT if n % 2 else "test.else"
                mock_nats.put(subject, b"{}", {"Nats-Msg-Id": f"e{n}"})
            if n == 30:
                for gap in range(100):
                    mock_nats.put("test.foreign", b"{}", {"Nats-Msg-Id": f"g{gap}"})
        mock_nats.put(SUBJECT, b"{}", {"Nats-Msg-Id": "ä"})
        mock_nats.put(SUBJECT, b"{}")
        assert await unconfirmed.resolve()
        sent = "SELECT event_id FROM jetstream_outbox_events WHERE status = 'sent'"
        found = {row[0] for row in await rows(engine, sent)}
        assert found == {f"e{n}" for n in range(0, 60, 3)}
        assert await scalar(engine, "SELECT count(*) FROM jetstream_relay_notes") == 0


async def test_a_look_that_ends_early_goes_on_where_it_was(
    sqlite_url: str, mock_nats: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jetstream_bridge.outbox.unconfirmed.READERS", 1)
    monkeypatch.setattr("jetstream_bridge.outbox.unconfirmed.PORTION", 10)
    async with database(sqlite_url) as (engine, _), doubting(engine, mock_nats) as unconfirmed:
        await enqueue(engine, many(40, resources=40), subject=SUBJECT)
        for n in range(40):
            mock_nats.put(SUBJECT, b"{}", {"Nats-Msg-Id": f"e{n}"})
        mock_nats.faults.slow("1s")
        looks = 1
        while not await unconfirmed.resolve():
            looks += 1
            assert looks < 10
        assert looks > 1
        assert await counts(engine) == {"sent": 40}


async def test_a_note_costs_nothing_for_each_event_and_ends_with_the_relay(
    database_url: str, broker: Broker
) -> None:
    async with database(database_url) as (engine, sessions):
        async with relaying(config(broker.url), sessions, broker) as bridge:
            await eventually(lambda: bridge.topology.problem is None)
            seen = statements(engine)
            for n in range(20):
                await enqueue(
                    engine, [{"event_id": f"n{n}", "payload": envelope(f"n{n}")}], subject=SUBJECT
                )
                bridge.wake_relay()
                await eventually(all_sent(engine, n + 1))
            written = [s for s in seen if "INTO jetstream_relay_notes" in s]
            assert len(written) == 1, "one for half a minute"
        assert await scalar(engine, "SELECT count(*) FROM jetstream_relay_notes") == 0


async def test_an_idle_relay_has_no_note(sqlite_url: str) -> None:
    async with (
        broker_of("mock") as broker,
        database(sqlite_url) as (engine, sessions),
        relaying(settings(broker.url), sessions, broker),
    ):
        await enqueue(engine, many(3, resources=3), subject=SUBJECT)
        await eventually(all_sent(engine, 3))

        async def no_note() -> bool:
            return not await scalar(engine, "SELECT count(*) FROM jetstream_relay_notes")

        await eventually(no_note)


RELAY = """
import asyncio, sys
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlmodel.ext.asyncio.session import AsyncSession
from jetstream_bridge import Bridge
from jetstream_bridge.service.database import create_engine
from tests.outbox.test_unconfirmed import settings

async def main():
    sessions = async_sessionmaker(create_engine(sys.argv[2]), class_=AsyncSession)
    async with Bridge(settings(sys.argv[1]), sessions, relay=True):
        await asyncio.sleep(600)

asyncio.run(main())
"""


@on_nats_server
async def test_a_relay_that_is_killed_amid_a_claim_doubles_nothing(
    postgres_url: str, broker: Broker
) -> None:
    async with database(postgres_url) as (engine, sessions):
        await enqueue(engine, many(NUMBER, resources=6), subject=SUBJECT)
        environment = {**os.environ, "PYTHONPATH": import_path()}
        async with engine.connect() as blocking:
            await blocking.execute(text("SELECT 1 FROM jetstream_outbox_events FOR UPDATE"))
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", RELAY, broker.url, postgres_url, env=environment
            )
            try:
                await eventually(lambda: waits_for_us(engine), limit=30)
            finally:
                process.send_signal(signal.SIGKILL)
                await process.wait()
        assert len(await ids(broker)) > 0
        assert await counts(engine) == {"pending": NUMBER}
        await broker.passes(LONGER)
        async with relaying(settings(broker.url), sessions, broker):
            await eventually(all_sent(engine, NUMBER), limit=20)
        await assert_in_order(broker, NUMBER)


async def waits_for_us(engine: AsyncEngine) -> bool:
    """Whether somebody waits for the locks on the rows: to mark them as sent."""
    return bool(await scalar(engine, "SELECT count(*) FROM pg_locks WHERE NOT granted"))


@pytest.mark.real
@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_a_database_that_is_away_amid_relaying_doubles_nothing(how: str) -> None:
    with NatsServer() as nats, PostgresServer() as postgres:
        broker = RealBroker(nats)
        async with database(postgres.create_database()) as (engine, sessions):
            await enqueue(engine, many(4000, resources=50), subject=SUBJECT)
            limits = settings(nats.url, relay_batch_size=200)
            async with relaying(limits, sessions, broker) as bridge:
                await eventually(lambda: some_sent(engine), limit=20)
                if how == "killed":
                    postgres.kill()
                    await broker.passes(LONGER)
                    postgres.start()
                else:
                    os.killpg(postgres.pid, signal.SIGSTOP)
                    await broker.passes(LONGER)
                    os.killpg(postgres.pid, signal.SIGCONT)
                await engine.dispose()
                bridge.wake_relay()
                await eventually(lambda: sent_all(engine), limit=60)
            await assert_in_order(broker, 4000)


async def some_sent(engine: AsyncEngine) -> bool:
    return (await counts(engine)).get("sent", 0) > 200


async def sent_all(engine: AsyncEngine) -> bool:
    try:
        return await counts(engine) == {"sent": 4000}
    except (OperationalError, OSError):
        return False
