"""Sessions: what is committed, when, and what the client hears when it is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from sqlalchemy import JSON, Column, MetaData, Table, text
from sqlalchemy.exc import OperationalError
from sqlmodel import select

from app.settings import ROOT
from jetstream_bridge.core.leases import Lease
from jetstream_bridge.service import problems
from jetstream_bridge.service.database import Database, SessionDep, create_engine, open_database
from jetstream_bridge.service.schema import migrate
from tests.service.conftest import MakeSettings


def _lease(name: str) -> Lease:
    return Lease(name=name, holder="me", expires_at=datetime.now(UTC))


async def _names(database: Database) -> list[str]:
    async with database.readers() as session:
        return list(await session.exec(select(Lease.name).order_by(Lease.name)))


@pytest.fixture
def app(database: Database) -> FastAPI:
    """An application whose routes write a row each, and end in different ways."""
    app = FastAPI()
    app.state.database = database
    problems.install(app)

    @app.post("/rows/{name}", status_code=201)
    async def write(name: str, session: SessionDep) -> dict[str, str]:
        session.add(_lease(name))
        return {"name": name}

    @app.post("/refused/{name}")
    async def write_then_refuse(name: str, session: SessionDep) -> None:
        session.add(_lease(name))
        await session.flush()
        raise HTTPException(409, "not this one")

    @app.get("/rows")
    async def read(session: SessionDep) -> list[str]:
        return list(await session.exec(select(Lease.name)))

    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_what_a_handler_wrote_is_committed_before_the_answer(
    client: httpx.AsyncClient, database: Database
) -> None:
    response = await client.post("/rows/a")

    assert response.status_code == 201
    assert await _names(database) == ["a"]


async def test_a_handler_that_raises_leaves_nothing(
    client: httpx.AsyncClient, database: Database
) -> None:
    response = await client.post("/refused/a")

    assert response.status_code == 409
    assert await _names(database) == []


async def test_a_commit_that_fails_is_an_error_for_the_client(
    app: FastAPI, client: httpx.AsyncClient, database: Database
) -> None:
    async with database.engine.begin() as connection:
        await connection.execute(
            text(
                "CREATE TABLE pledges (lease VARCHAR(255) "
                "REFERENCES jetstream_leases (name) DEFERRABLE INITIALLY DEFERRED)"
            )
        )

    @app.post("/pledges", status_code=201)
    async def pledge(session: SessionDep) -> None:
        session.add(_lease("a"))
        connection = await session.connection()
        await connection.execute(text("INSERT INTO pledges (lease) VALUES ('nobody')"))

    response = await client.post("/pledges")

    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert "pledges" not in response.text
    assert await _names(database) == []
    assert (await client.post("/rows/b")).status_code == 201, "the connection is usable again"


async def test_a_commit_that_violates_a_constraint_is_an_error_for_the_client(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.post("/rows/a")).status_code == 201
    assert (await client.post("/rows/a")).status_code == 500


async def test_a_read_does_not_wait_for_a_writer(
    client: httpx.AsyncClient, database: Database
) -> None:
    async with database.sessions() as writer:
        writer.add(_lease("a"))
        await writer.flush()
        async with asyncio.timeout(10):
            response = await client.get("/rows")

    assert response.json() == []


async def test_transactions_that_read_and_then_write_wait_for_each_other(
    database: Database,
) -> None:
    async with database.sessions() as session:
        session.add(Lease(name="counter", holder="0", expires_at=datetime.now(UTC)))
        await session.commit()

    async def count() -> None:
        async with database.sessions() as session:
            row = (await session.exec(select(Lease).with_for_update())).one()
            row.holder = str(int(row.holder) + 1)
            await session.commit()

    await asyncio.gather(*(count() for _ in range(20)))

    async with database.readers() as session:
        assert (await session.exec(select(Lease.holder))).one() == "20"


async def test_a_savepoint_can_be_rolled_back_alone(database: Database) -> None:
    async with database.sessions() as session:
        session.add(_lease("kept"))
        savepoint = await session.begin_nested()
        session.add(_lease("dropped"))
        await session.flush()
        await savepoint.rollback()
        await session.commit()

    assert await _names(database) == ["kept"]


async def test_an_object_can_be_read_after_the_commit(database: Database) -> None:
    async with database.sessions() as session:
        row = _lease("a")
        session.add(row)
        await session.commit()

    assert row.name == "a"


async def test_tables_are_part_of_a_transaction_too(database_url: str) -> None:
    engine = create_engine(database_url)
    create = text("CREATE TABLE half (id INTEGER PRIMARY KEY)")
    async with engine.connect() as connection:
        await connection.execute(create)
        await connection.rollback()
        await connection.execute(create)
    await engine.dispose()


async def test_sqlite_is_set_up_for_several_processes(
    sqlite_url: str, make_settings: MakeSettings
) -> None:
    database = open_database(make_settings(database_url=sqlite_url))
    async with database.engine.connect() as connection:
        found = {
            name: (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        }
    await database.close()

    assert found == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 10_000}


async def test_a_locked_sqlite_database_is_usable_again_afterwards(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(migrate, ROOT, sqlite_url)
    monkeypatch.setattr("jetstream_bridge.service.database._LOCK_TIMEOUT", 50)
    holder, waiter = create_engine(sqlite_url), create_engine(sqlite_url)

    async with holder.begin():
        with pytest.raises(OperationalError, match="database is locked"):
            async with waiter.begin():
                raise AssertionError("not reached")
    async with waiter.begin() as connection:
        await connection.execute(text("DELETE FROM jetstream_leases"))
    await holder.dispose()
    await waiter.dispose()


async def test_json_is_stored_compact_and_not_escaped(database_url: str) -> None:
    notes = Table("notes", MetaData(), Column("body", JSON))
    engine = create_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(notes.create)
        await connection.execute(notes.insert(), {"body": {"name": "Zoë", "tags": [1, 2]}})
        stored = (await connection.execute(text("SELECT CAST(body AS TEXT) FROM notes"))).scalar()
    await engine.dispose()

    assert stored == '{"name":"Zoë","tags":[1,2]}'
