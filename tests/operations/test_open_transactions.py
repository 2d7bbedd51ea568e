"""The database's oldest open transaction, as PostgreSQL tells it."""

from __future__ import annotations

import asyncio

from sqlalchemy import text

from jetstream_bridge.operations.open_transactions import dead_rows, oldest_transaction
from tests.bridge.old_snapshots import generate
from tests.bridge.support import database
from tests.waiting import eventually


async def test_sqlite_tells_of_no_transaction(sqlite_url: str) -> None:
    async with database(sqlite_url) as (engine, _):
        assert await oldest_transaction(engine) is None
        assert await dead_rows(engine) is None


async def test_rows_that_wait_for_a_vacuum_are_told(postgres_url: str) -> None:
    async with database(postgres_url) as (engine, _):
        await generate(engine, 100, prefix="e")
        assert await dead_rows(engine) == 0
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE jetstream_outbox_events SET status = 'sent'"))
        async with engine.begin() as connection:
            await connection.execute(text("DELETE FROM jetstream_outbox_events WHERE id <= 20"))
            await connection.execute(text("SELECT pg_stat_force_next_flush()"))

        async def told() -> bool:
            return await dead_rows(engine) == 120

        await eventually(told, what="the database's statistics have them")


async def test_the_oldest_open_transaction_is_told(postgres_url: str) -> None:
    async with database(postgres_url) as (engine, _):
        assert await oldest_transaction(engine) is None, "not the one that asks"
        async with engine.connect() as older, engine.connect() as younger:
            await older.execute(text("SET application_name = 'migration by hand'"))
            await older.commit()
            pid = (await older.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            await asyncio.wait_for(younger.execute(text("SELECT 1")), 10)
            found = await oldest_transaction(engine)
        assert found is not None
        assert (found.pid, found.program) == (pid, "migration by hand")
        assert (found.state, 0 <= found.seconds < 60) == ("idle in transaction", True)
