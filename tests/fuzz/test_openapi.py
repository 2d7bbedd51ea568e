"""The API keeps what its OpenAPI document promises, whatever it is asked.

Schemathesis makes the requests, good and bad ones, from the document alone, the same in every run.
The service is whole: database, relay and JetStream, behind a real HTTP server; once on SQLite and
the mock, once on PostgreSQL and nats-server, which refuse other things.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig

from app.main import create_app
from app.settings import ROOT, Settings
from jetstream_bridge import ClientFactory, GuardedClient
from jetstream_bridge.service.schema import migrate
from jetstream_bridge.service.settings_loading import read_settings
from jetstream_bridge.testing import MockServer
from jetstream_bridge.testing.plugin import ADMIN_TOKEN as TOKEN
from jetstream_bridge.testing.postgres import PostgresServer
from jetstream_bridge.testing.server_processes import wait_until
from jetstream_bridge.testing.servers import NatsServer

# Random ones for each route, besides those at the edges of what the document allows, which find
# most. `make search` makes many more.
SEARCHING = os.environ.get("HYPOTHESIS_PROFILE") == "search"
EXAMPLES = 500 if SEARCHING else 5

# The rights of strangers, tests of methods that do not exist and the like are checks too: all run.
schema = schemathesis.openapi.from_dict(
    create_app(
        read_settings(
            Settings,
            app_name="orders",
            destination_app="billing",
            database_url="sqlite+aiosqlite:///unused.sqlite3",
            nats_urls="nats://127.0.0.1:1",
            admin_token=TOKEN,
            _env_file=None,
        )
    ).openapi(),
    config=schemathesis.Config(
        projects=ProjectsConfig(
            default=ProjectConfig(
                generation=GenerationConfig(
                    max_examples=EXAMPLES,
                    deterministic=not SEARCHING,
                    no_shrink=True,
                    with_security_parameters=False,  # each case is sent with the token
                )
            )
        )
    ),
)


def test_the_console_is_no_part_of_it() -> None:
    paths = schema.raw_schema["paths"]
    assert "/admin/outbox" in paths
    assert not [path for path in paths if path == "/admin" or path.startswith("/admin/console")]


class Serving(threading.Thread):
    """The service on an event loop of its own: a request must not end on another one."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))

    def run(self) -> None:
        asyncio.run(self.server.serve(sockets=[self._listener]))

    def stop(self) -> None:
        self.server.should_exit = True
        self.join(10)
        assert not self.is_alive()


@contextmanager
def serving(database_url: str, nats_url: str, make_client: ClientFactory) -> Iterator[str]:
    values: dict[str, Any] = {
        "app_name": "orders",
        "destination_app": "billing",
        "database_url": database_url,
        "nats_urls": nats_url,
        "admin_token": TOKEN,
    }
    configured: Settings = read_settings(Settings, **values, _env_file=None)
    server = Serving(create_app(configured, make_client=make_client))
    server.start()
    wait_until(
        lambda: httpx.get(f"{server.url}/readyz").json()["status"] == "ready",
        limit=20,
        what="readiness",
    )
    yield server.url
    server.stop()


@pytest.fixture(scope="module", params=["mock", "real"])
def url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(scope="module")
def mock_url(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("openapi") / "service.sqlite3"
    shutil.copyfile(migrated_file, path)
    nats = MockServer()
    with serving(f"sqlite+aiosqlite:///{path}", nats.url, nats.client) as url:
        yield url


@pytest.fixture(scope="module")
def real_url(postgres: PostgresServer) -> Iterator[str]:
    if not postgres.is_running:  # a test of crashes left it down
        postgres.start()
    database_url = postgres.create_database()
    migrate(ROOT, database_url)
    with NatsServer() as nats, serving(database_url, nats.url, GuardedClient) as url:
        yield url
    postgres.drop_database(database_url)


@schema.parametrize()
@settings(suppress_health_check=list(HealthCheck), deadline=None)
def test_the_api_keeps_its_promises(case: schemathesis.Case[Any], url: str) -> None:
    case.call_and_validate(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"})
