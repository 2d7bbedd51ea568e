"""An event is announced when, and only when, the change that it tells of is committed."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge.outbox.sessions import NewEvent, Outbox
from tests.bridge.support import Sessions, database, envelope, rows, scalar
from tests.waiting import eventually

COUNT = "SELECT count(*) FROM jetstream_outbox_events"


def new(event_id: str, resource: str = "1") -> NewEvent:
    return NewEvent(event_id, "test.a.sync.b", envelope(event_id, resource=resource), {})


async def test_event_is_written_by_the_commit_and_not_before(database_url: str) -> None:
    async with database(database_url) as (engine, sessions), sessions() as session:
        Outbox().add(session, new("e1"))
        assert await scalar_in(session, COUNT) == 0
        await session.commit()
        [row] = await rows(
            engine, "SELECT event_id, status, attempts, resource, held FROM jetstream_outbox_events"
        )
        assert tuple(row) == ("e1", "pending", 0, "order:1", False)


async def scalar_in(session: AsyncSession, sql: str) -> object:
    connection = await session.connection()
    return (await connection.execute(text(sql))).scalar_one()


async def test_body_is_kept_to_the_byte(database_url: str) -> None:
    body = '{"b":1.50,"a":"Ünï ☃","resource_type":"x","nested":{"z":1,"y":[1e5]}}'
    async with database(database_url) as (engine, sessions), sessions() as session:
        Outbox().add(session, NewEvent("e1", "s", body, {"h": "v"}))
        await session.commit()
        stored = "SELECT CAST(payload AS TEXT) FROM jetstream_outbox_events"
        assert await scalar(engine, stored) == body


async def test_rollback_leaves_no_event(database_url: str) -> None:
    async with database(database_url) as (engine, sessions):
        async with sessions() as session:
            Outbox().add(session, new("e1"))
            await session.rollback()
            await session.commit()
        assert await scalar(engine, COUNT) == 0


async def test_closing_the_session_without_commit_leaves_no_event(database_url: str) -> None:
    async with database(database_url) as (engine, sessions):
        async with sessions() as session:
            await session.connection()
            Outbox().add(session, new("e1"))
        assert await scalar(engine, COUNT) == 0


async def test_event_of_a_rolled_back_savepoint_is_gone_and_others_stay(
    database_url: str,
) -> None:
    outbox = Outbox()
    async with database(database_url) as (engine, sessions):
        async with sessions() as session:
            outbox.add(session, new("before"))
            outer = await session.begin_nested()
            outbox.add(session, new("outer"))
            async with session.begin_nested():
                outbox.add(session, new("inner"))  # released into a savepoint that rolls back
            await outer.rollback()
            async with session.begin_nested():
                outbox.add(session, new("kept"))
            await session.commit()
        found = await rows(engine, "SELECT event_id FROM jetstream_outbox_events ORDER BY id")
        assert [row.event_id for row in found] == ["before", "kept"]


async def test_a_failing_commit_leaves_no_event(database_url: str) -> None:
    async with database(database_url) as (engine, sessions):
        async with sessions() as session:
            outbox = Outbox()
            outbox.add(session, new("e1"))
            outbox.add(session, NewEvent("e2", "s", '"a JSON string"', {}))
            with pytest.raises(IntegrityError, match="payload"):
                await session.commit()
        assert await scalar(engine, COUNT) == 0


async def test_one_event_id_twice_is_one_row(database_url: str) -> None:
    async with database(database_url) as (engine, sessions):
        for _ in range(2):
            async with sessions() as session:
                Outbox().add(session, new("e1"))
                await session.commit()
        assert await scalar(engine, COUNT) == 1


async def test_session_can_be_used_again_after_its_commit(database_url: str) -> None:
    outbox = Outbox()
    async with database(database_url) as (engine, sessions), sessions() as session:
        outbox.add(session, new("e1"))
        await session.commit()
        outbox.add(session, new("e2"))
        await session.commit()
        await session.commit()
        assert await scalar(engine, COUNT) == 2


async def test_relay_is_woken_after_a_commit_with_events_only(database_url: str) -> None:
    woken: list[str] = []
    async with database(database_url) as (_, sessions), sessions() as session:
        outbox = Outbox(on_commit=lambda: woken.append("now"))
        await session.connection()
        await session.commit()
        assert woken == []
        outbox.add(session, new("e1"))
        await session.commit()
        assert woken == ["now"]


async def test_events_of_one_resource_get_their_ids_in_commit_order(postgres_url: str) -> None:
    """B publishes first and then waits for A's row lock; A commits first. A's event is first."""
    async with database(postgres_url) as (engine, sessions):
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE thing (id int PRIMARY KEY, v int)"))
            await connection.execute(text("INSERT INTO thing VALUES (1, 0)"))
        outbox = Outbox()
        a, b = sessions(), sessions()
        update = text("UPDATE thing SET v = v + 1 WHERE id = 1")
        await (await a.connection()).execute(update)
        outbox.add(b, new("b"))
        blocked = asyncio.create_task((await b.connection()).execute(update))

        async def b_waits() -> bool:
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            return bool(await scalar(engine, waiting))

        await eventually(b_waits)
        outbox.add(a, new("a"))
        await a.commit()
        await blocked
        await b.commit()
        await a.close()
        await b.close()
        found = await rows(engine, "SELECT event_id FROM jetstream_outbox_events ORDER BY id")
        assert [row.event_id for row in found] == ["a", "b"]


async def test_publishing_costs_one_statement_for_each_transaction(database_url: str) -> None:
    async with database(database_url) as (engine, sessions), sessions() as session:
        statements: list[str] = []

        @event.listens_for(engine.sync_engine, "before_cursor_execute")
        def count(conn: object, cursor: object, statement: str, *rest: object) -> None:
            statements.append(statement)

        await session.connection()
        statements.clear()
        outbox = Outbox(notify=False)
        for number in range(50):
            outbox.add(session, new(f"e{number}"))
        await session.commit()
        assert len(statements) == 1, statements


async def test_plain_insert_of_three_columns_makes_a_whole_row(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        async with engine.begin() as connection:
            cast = "CAST(:p AS json)" if engine.dialect.name == "postgresql" else ":p"
            await connection.execute(
                text(
                    "INSERT INTO jetstream_outbox_events (event_id, subject, payload) "
                    f"VALUES ('e1', 'a.b', {cast})"
                ),
                {"p": envelope("e1", resource="42")},
            )
        [row] = await rows(
            engine,
            "SELECT status, attempts, resource, held, enqueued_at, created_at, updated_at, lane "
            "FROM jetstream_outbox_events",
        )
        assert (row.status, row.attempts, row.resource, row.held) == ("pending", 0, "order:42", 0)
        assert None not in (row.enqueued_at, row.created_at, row.updated_at, row.lane)


async def test_other_processes_relays_are_notified(postgres_url: str) -> None:
    async with database(postgres_url) as (engine, sessions):
        heard: list[object] = []
        async with engine.connect() as listening:
            driver = (await listening.get_raw_connection()).driver_connection
            assert driver is not None
            await driver.add_listener("jetstream_outbox", lambda *what: heard.append(what))
            await commit_one(sessions, Outbox(notify=False), "quiet")
            await commit_one(sessions, Outbox(notify=True), "loud")
            await eventually(lambda: len(heard) == 1)


async def commit_one(sessions: Sessions, outbox: Outbox, event_id: str) -> None:
    async with sessions() as session:
        outbox.add(session, new(event_id))
        await session.commit()
