"""The template's own service, both of its processes, on a JetStream in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from fastapi import FastAPI

from app.cli import cli
from app.consumers import load_consumers
from app.main import create_app
from app.settings import ROOT, Settings
from jetstream_bridge import Check
from jetstream_bridge.service.runtime import Runtime, running
from jetstream_bridge.service.schema import migrate
from jetstream_bridge.service.settings_loading import read_settings
from jetstream_bridge.testing import MockServer
from jetstream_bridge.testing.events import body_of, make_event
from jetstream_bridge.web import metrics
from tests.waiting import eventually


@dataclass(frozen=True)
class Processes:
    server: MockServer
    api: httpx.AsyncClient
    worker: httpx.AsyncClient
    runtime: Runtime  # the worker's

    async def is_ready(self) -> bool:
        checks = await self.runtime.health.checks()
        answer = await self.api.get("/readyz")
        return answer.json()["status"] == "ready" and all(check.ok for check in checks.values())


@asynccontextmanager
async def processes(database_url: str) -> AsyncIterator[Processes]:
    """Run API and worker of `orders`, whose peer is `billing`, on a migrated database."""
    server = MockServer()
    settings = read_settings(
        Settings,
        app_name="orders",
        destination_app="billing",
        nats_env="test",
        database_url=database_url,
        nats_urls=server.url,
        _env_file=None,
    )
    api = create_app(settings, make_client=server.client)
    probes = FastAPI()
    probes.include_router(metrics.router)
    async with (
        api.router.lifespan_context(api),
        running(settings, consumers=load_consumers(), make_client=server.client) as runtime,
    ):
        runtime.attach(probes)
        async with _client(api) as to_api, _client(probes) as to_worker:
            yield Processes(server, to_api, to_worker, runtime)


def _client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def migrated(folder: Path) -> str:
    """Make a database with the service's tables; return its address."""
    url = f"sqlite+aiosqlite:///{folder / 'service.sqlite3'}"
    migrate(ROOT, url)
    return url


# What tests here take of the template's own, for it is on the path from here on.
__all__ = [
    "Check",
    "Processes",
    "body_of",
    "cli",
    "eventually",
    "make_event",
    "migrated",
    "processes",
]
