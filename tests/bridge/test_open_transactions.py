"""The database's oldest open transaction, as PostgreSQL tells it."""

from __future__ import annotations

import asyncio

from sqlalchemy import text

from jetstream_bridge.operations.open_transactions import oldest_transaction
from tests.bridge.support import database


async def test_sqlite_tells_of_no_transaction(sqlite_url: str) -> None:
    async with database(sqlite_url) as (engine, _):
        assert await oldest_transaction(engine) is None


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
