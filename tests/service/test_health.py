"""The probes: what they say, and that they say it in time."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import make_url, text

from app.consumers import load_consumers
from app.settings import ROOT, Settings
from jetstream_bridge import Bridge, status_of
from jetstream_bridge.outbox.relay import Relay
from jetstream_bridge.outbox.rounds import Round
from jetstream_bridge.service.database import Database
from jetstream_bridge.service.runtime import running
from jetstream_bridge.service.schema import migrate
from jetstream_bridge.testing import MockServer, VirtualClock
from jetstream_bridge.testing.postgres import PostgresServer
from jetstream_bridge.testing.servers import NatsServer
from tests.apps import make_app
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


async def test_without_nats_an_api_with_the_outbox_serves_and_shows_what_fails(
    client: httpx.AsyncClient,
) -> None:
    response = await client.get("/readyz")

    assert response.status_code == 200
    answer = response.json()
    assert answer["status"] == "degraded"
    assert set(answer["checks"]) == {"database", "migrations", "tasks", "nats", "stream", "relay"}
    assert answer["checks"]["database"] == {"ok": True}
    assert answer["checks"]["migrations"] == {"ok": True}
    assert answer["checks"]["nats"]["ok"] is False
    assert answer["checks"]["nats"]["detail"]


@pytest.mark.parametrize("values", [{"ready_requires_nats": "true"}, {"use_outbox": "false"}])
async def test_an_api_that_needs_nats_is_not_ready_without_it(
    migrated_url: str, make_settings: MakeSettings, values: dict[str, str]
) -> None:
    async with serving(make_app(make_settings(database_url=migrated_url, **values))) as client:
        response = await client.get("/readyz")

    assert (response.status_code, response.json()["status"]) == (503, "not_ready")


async def test_an_api_that_does_not_relay_serves_without_nats_too(
    migrated_url: str, make_settings: MakeSettings
) -> None:
    app = make_app(make_settings(database_url=migrated_url, relay_enabled="false"))
    async with serving(app) as client:
        response = await client.get("/readyz")

    assert (response.status_code, response.json()["status"]) == (200, "degraded")


async def test_a_worker_without_nats_is_not_ready(
    migrated_url: str, make_settings: MakeSettings
) -> None:
    settings = make_settings(database_url=migrated_url)
    async with running(settings, consumers=load_consumers()) as runtime:
        checks = await runtime.health.checks()

    assert status_of(checks.values()) == "not_ready"
    assert checks["nats"].needed and not checks["nats"].ok


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_answer_head_as_they_answer_get(client: httpx.AsyncClient, path: str) -> None:
    response = await client.head(path)

    assert response.status_code == (await client.get(path)).status_code == 200


async def test_nobody_is_ready_on_a_database_that_takes_no_write(
    postgres_url: str, make_settings: MakeSettings, postgres: PostgresServer
) -> None:
    await asyncio.to_thread(migrate, ROOT, postgres_url)
    name = make_url(postgres_url).database
    read_only = f"ALTER DATABASE {name} SET default_transaction_read_only = on"
    await asyncio.to_thread(postgres.run, read_only)

    async with serving(make_app(make_settings(database_url=postgres_url))) as client:
        response = await client.get("/readyz")
        alive = await client.get("/healthz")

    assert (response.status_code, alive.status_code) == (503, 200)
    assert "read-only" in response.json()["checks"]["database"]["detail"]


async def test_a_relay_that_finishes_no_round_is_shown(
    mock_nats: MockServer,
    clock: VirtualClock,
    service_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hangs(*_: object) -> Round:
        await asyncio.Event().wait()
        return Round()

    monkeypatch.setattr(Relay, "_guarded", hangs)
    async with serving(make_app(service_settings, make_client=mock_nats.client)) as client:
        await clock.advance("30s")
        response = await client.get("/readyz")

    assert response.json()["status"] == "degraded"
    assert "no round was finished for 30 s" in response.json()["checks"]["relay"]["detail"]


async def test_with_everything_in_place_the_process_is_ready(
    migrated_url: str, make_settings: MakeSettings, nats_server: NatsServer
) -> None:
    app = make_app(make_settings(database_url=migrated_url, nats_urls=nats_server.url))

    async with serving(app) as client:

        async def is_ready() -> bool:
            return bool((await client.get("/readyz")).json()["status"] == "ready")

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
    assert "alembic upgrade heads" in check["detail"]


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
