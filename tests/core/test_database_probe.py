"""The probe tells a database that takes a write from one that only answers."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from jetstream_bridge.core.database_probe import write_problem
from jetstream_bridge.testing.postgres import PostgresServer
from tests.bridge.support import database, scalar


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    async with database(database_url) as (engine, _):
        yield engine


async def test_a_database_that_takes_a_write_has_no_problem_and_keeps_nothing(
    engine: AsyncEngine,
) -> None:
    assert await write_problem(engine) is None
    assert await scalar(engine, "SELECT count(*) FROM jetstream_leases") == 0


async def test_a_database_without_the_tables_takes_no_write(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE jetstream_leases"))

    assert "jetstream_leases" in (await write_problem(engine) or "")
    assert await write_problem(engine, tables_may_lack=True) is None


async def test_a_file_that_may_only_be_read_takes_no_write(sqlite_url: str) -> None:
    async with database(sqlite_url):
        path = make_url(sqlite_url).database
    engine = create_async_engine(f"sqlite+aiosqlite:///file:{path}?mode=ro&uri=true")

    problem = await write_problem(engine)
    await engine.dispose()

    assert "readonly" in (problem or "")


async def test_a_writer_that_keeps_the_lock_of_sqlite_is_no_problem(sqlite_url: str) -> None:
    async with database(sqlite_url) as (engine, _), engine.begin() as writing:
        await writing.execute(text("DELETE FROM jetstream_leases"))

        assert await write_problem(engine) is None


async def test_after_the_probe_a_connection_waits_for_the_lock_as_before(sqlite_url: str) -> None:
    async with database(sqlite_url) as (engine, _):
        before = await scalar(engine, "PRAGMA busy_timeout")
        await write_problem(engine)

        assert await scalar(engine, "PRAGMA busy_timeout") == before


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER DATABASE {} SET default_transaction_read_only = on", "read-only transaction"),
        ("REVOKE INSERT ON jetstream_leases FROM probing", "permission denied"),
    ],
)
async def test_postgresql_that_only_answers_takes_no_write(
    postgres: PostgresServer, postgres_url: str, statement: str, said: str
) -> None:
    name = make_url(postgres_url).database
    async with database(postgres_url):
        pass
    postgres.run("DROP ROLE IF EXISTS probing; CREATE ROLE probing LOGIN")
    postgres.run("GRANT ALL ON jetstream_leases TO probing", database=str(name))
    engine = create_async_engine(make_url(postgres_url).set(username="probing"))
    assert await write_problem(engine) is None
    await engine.dispose()

    postgres.run(statement.format(name), database=str(name))
    answers, problem = await scalar(engine, "SELECT 1"), await write_problem(engine)
    await engine.dispose()
    postgres.run(f"ALTER DATABASE {name} RESET ALL")
    postgres.run("DROP OWNED BY probing; DROP ROLE probing", database=str(name))

    assert (answers, said in (problem or "")) == (1, True), problem


async def test_a_postgresql_that_hangs_takes_no_write_and_the_probe_ends(
    postgres: PostgresServer, postgres_url: str
) -> None:
    async with database(postgres_url) as (engine, _):
        pid = int(await scalar(engine, "SELECT pg_backend_pid()"))
        with _frozen(pid):
            assert await write_problem(engine, limit=0.5) == "no answer within 0.5 s"


@contextmanager
def _frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
