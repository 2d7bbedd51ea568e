"""The probes: what they say, and that they say it in time."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from app.bridge import Bridge
from app.database import Database
from tests.apps import make_app
from tests.servers import NatsServer
from tests.service.conftest import MakeSettings, serving
from tests.waiting import eventually


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never answers on them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def test_a_working_process_is_alive(client: httpx.AsyncClient) -> None:
    response = await client.get("/healthz")

    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_a_process_whose_background_task_died_asks_for_a_restart(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bridge, "failures", lambda _: ["relay died: ValueError()"])

    response = await client.get("/healthz")

    assert response.status_code == 503
    assert response.json() == {"status": "failing", "failures": ["relay died: ValueError()"]}


async def test_without_nats_the_process_is_alive_and_not_ready(
    client: httpx.AsyncClient,
) -> None:
    response = await client.get("/readyz")

    assert response.status_code == 503
    answer = response.json()
    assert answer["status"] == "not_ready"
    assert set(answer["checks"]) == {"database", "migrations", "nats", "stream", "relay"}
    assert answer["checks"]["database"] == {"ok": True}
    assert answer["checks"]["migrations"] == {"ok": True}
    assert answer["checks"]["nats"]["ok"] is False
    assert answer["checks"]["nats"]["detail"]


async def test_with_everything_in_place_the_process_is_ready(
    migrated_url: str, make_settings: MakeSettings, nats_server: NatsServer
) -> None:
    app = make_app(make_settings(database_url=migrated_url, nats_urls=nats_server.url))

    async with serving(app) as client:

        async def is_ready() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await eventually(is_ready, what="readiness")
        answer = (await client.get("/readyz")).json()

    assert answer["status"] == "ready"
    assert all(check == {"ok": True} for check in answer["checks"].values())


async def test_a_missing_migration_is_named_with_its_remedy(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    database: Database = app.state.database
    async with database.engine.begin() as connection:
        await connection.execute(text("DELETE FROM alembic_version"))

    check = (await client.get("/readyz")).json()["checks"]["migrations"]

    assert check["ok"] is False
    assert check["detail"].startswith("not applied: 0001")
    assert "alembic upgrade head" in check["detail"]


async def test_a_database_that_is_away_is_named_without_its_password(
    make_settings: MakeSettings,
) -> None:
    app = make_app(make_settings(database_url="postgresql+asyncpg://me:hunter2@127.0.0.1:1/orders"))

    async with serving(app) as client:
        response = await client.get("/readyz")

    assert response.status_code == 503
    assert response.json()["checks"]["database"]["detail"]
    assert "hunter2" not in response.text


async def test_the_answer_comes_within_two_seconds_when_the_database_hangs(
    make_settings: MakeSettings, silent_port: int
) -> None:
    app = make_app(
        make_settings(database_url=f"postgresql+asyncpg://me@127.0.0.1:{silent_port}/orders")
    )

    async with serving(app) as client:
        started = time.monotonic()
        first, second = await asyncio.gather(client.get("/readyz"), client.get("/readyz"))
        assert time.monotonic() - started < 2
        assert (await client.get("/healthz")).status_code == 200

    for response in (first, second):
        assert response.status_code == 503
        checks = response.json()["checks"]
        assert checks["database"] == {"ok": False, "detail": "no answer within 1.5 s"}
        assert checks["migrations"]["ok"] is False


async def test_metrics_are_prometheus_text(client: httpx.AsyncClient) -> None:
    response = await client.get("/metrics")

    assert response.headers["content-type"].startswith("text/plain")
    assert "# HELP python_info" in response.text


async def test_what_is_written_while_nats_is_away_goes_out_when_it_is_back(
    migrated_url: str, make_settings: MakeSettings, nats_server: NatsServer
) -> None:
    nats_server.terminate()
    app = make_app(make_settings(database_url=migrated_url, nats_urls=nats_server.url))

    async with serving(app) as client:
        async with app.state.database.sessions() as session:
            await app.state.bridge.publisher(session).publish("thing.made", {"id": "1"})
            await session.commit()
        nats_server.start()

        async def is_sent() -> bool:
            async with app.state.database.readers() as session:
                found = await session.exec(text("SELECT status FROM jetstream_outbox_events"))
                return [tuple(row) for row in found] == [("sent",)]

        await eventually(is_sent, what="the event in the stream")
        assert (await client.get("/healthz")).status_code == 200
