"""A request whose transaction did not take effect is no success, whatever its route caught."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlmodel.ext.asyncio.session import AsyncSession

from app.events import EventsDep
from app.settings import Settings
from jetstream_bridge import Bridge
from jetstream_bridge.service import problems
from jetstream_bridge.service.bridge_config import bridge_config
from jetstream_bridge.service.database import SessionDep, open_database
from jetstream_bridge.testing.postgres import PostgresServer
from tests.bridge.support import database as bridge_tables


async def _write(session: AsyncSession) -> None:
    await (await session.connection()).execute(text("INSERT INTO thing VALUES (1)"))


@pytest.fixture
async def requests(postgres_url: str, base_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A service with two routes that write what is there already and go on."""
    settings = base_settings.model_copy(update={"database_url": SecretStr(postgres_url)})
    database = open_database(settings)
    app = FastAPI()
    problems.install(app)
    app.state.database = database
    app.state.bridge = Bridge(bridge_config(settings), database.sessions)  # its outbox is all of it

    @app.post("/careless", status_code=201)
    async def careless(session: SessionDep, events: EventsDep) -> None:
        with suppress(IntegrityError):
            await _write(session)
        await events.publish("thing.made", {"id": 1})

    @app.post("/careful", status_code=201)
    async def careful(session: SessionDep, events: EventsDep) -> None:
        with suppress(IntegrityError):
            async with session.begin_nested():
                await _write(session)
        await events.publish("thing.made", {"id": 1})

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with bridge_tables(postgres_url) as (engine, _):
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE thing (n int PRIMARY KEY)"))
            await connection.execute(text("INSERT INTO thing VALUES (1)"))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client
    await database.close()


async def test_a_route_that_caught_a_database_error_answers_no_success(
    requests: httpx.AsyncClient, postgres: PostgresServer, postgres_url: str
) -> None:
    def announced() -> str:
        name = postgres_url.partition("?")[0].rpartition("/")[2]
        return postgres.run("SELECT count(*) FROM jetstream_outbox_events", database=name)

    answer = await requests.post("/careless")
    assert answer.status_code == 500
    assert announced() == "0"
    answer = await requests.post("/careful")
    assert answer.status_code == 201
    assert announced() == "1"
