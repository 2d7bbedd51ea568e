"""Fixtures for tests of the service around the bridge."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import make_url

from app.settings import ROOT, Settings
from jetstream_bridge import Consumers, Event
from jetstream_bridge.cli import service as service_of_commands
from jetstream_bridge.cli.definition import define
from jetstream_bridge.service.database import Database, open_database
from jetstream_bridge.service.definition import ServiceDefinition
from jetstream_bridge.service.schema import migrate
from jetstream_bridge.service.settings_loading import read_settings
from jetstream_bridge.testing import MockServer
from jetstream_bridge.testing.apps import client_of
from tests.apps import make_app
from tests.cli.commanding import Commands
from tests.service.otlp_collector import Collector

# Nobody listens there, so the bridge waits for NATS as long as a test runs.
NOWHERE = "nats://127.0.0.1:1"

MakeSettings = Callable[..., Settings]


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the settings of the machine that it runs on."""
    for name in list(os.environ):
        if name.lower() in Settings.model_fields:
            monkeypatch.delenv(name)


@pytest.fixture
def make_settings() -> MakeSettings:
    """Settings of a service called `orders`, without `.env`; keywords override."""

    def make(**values: Any) -> Settings:
        defaults = {
            "app_name": "orders",
            "destination_app": "billing",
            "database_url": "sqlite+aiosqlite:///unused.sqlite3",
            "nats_urls": NOWHERE,
        }
        return read_settings(Settings, **defaults | values, _env_file=None)

    return make


@pytest.fixture
async def migrated_url(database_url: str, migrated_file: Path) -> str:
    """A database with its tables; a test that asks for it runs once for each kind."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite" and url.database is not None:
        await asyncio.to_thread(shutil.copyfile, migrated_file, url.database)
    else:
        await asyncio.to_thread(migrate, ROOT, database_url)
    return database_url


@pytest.fixture
async def database(migrated_url: str, make_settings: MakeSettings) -> AsyncIterator[Database]:
    opened = open_database(make_settings(database_url=migrated_url))
    yield opened
    await opened.close()


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `app` while its lifespan lasts."""
    async with app.router.lifespan_context(app), client_of(app) as client:
        yield client


@pytest.fixture
def app(migrated_url: str, make_settings: MakeSettings) -> FastAPI:
    """The whole API on an empty database, without NATS."""
    return make_app(make_settings(database_url=migrated_url))


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(app) as client:
        yield client


@pytest.fixture
def commands(migrated_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """The commands of a service with one handler, an empty database and an empty NATS."""
    consumers = Consumers()

    @consumers.on("order.placed")
    async def handle(event: Event[dict[str, object]]) -> None: ...

    database, server = tmp_path / "service.sqlite3", MockServer()
    shutil.copyfile(migrated_file, database)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("app.consumers.load_consumers", lambda: consumers)
    # For what runs below the command line; `cli` does it itself.
    define(ServiceDefinition("app.settings:Settings", "app.consumers:load_consumers"))
    monkeypatch.setattr(service_of_commands, "GuardedClient", server.client)
    monkeypatch.setattr(service_of_commands, "prepare_logging", lambda *_: None)
    for name, value in {
        "APP_NAME": "orders",
        "DESTINATION_APP": "billing",
        "NATS_ENV": "test",
        "NATS_URLS": server.url,
        "DATABASE_URL": f"sqlite+aiosqlite:///{database}",
    }.items():
        monkeypatch.setenv(name, value)
    return Commands(server, database)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, args=(0.01,))
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()
