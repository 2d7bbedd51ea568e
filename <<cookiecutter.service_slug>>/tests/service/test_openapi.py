"""The API keeps what its OpenAPI document promises, whatever it is asked.

Schemathesis makes the requests, good and bad ones, from the document alone, the same in every run.
The service is whole: database, relay, and JetStream (the mock), behind a real HTTP server.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig

from app.bridge.testing import MockServer
from app.main import create_app
from app.settings import Settings, read_settings
from tests.conftest import ADMIN_TOKEN as TOKEN
from tests.servers import wait_until

EXAMPLES = 20  # for each route, besides those at the edges of what the document allows

# The rights of strangers, tests of methods that do not exist and the like are checks too: all run.
schema = schemathesis.openapi.from_dict(
    create_app(
        read_settings(
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
                    deterministic=True,
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


@pytest.fixture(scope="module")
def url(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("openapi") / "service.sqlite3"
    shutil.copyfile(migrated_file, path)
    nats = MockServer()
    values: dict[str, Any] = {
        "app_name": "orders",
        "destination_app": "billing",
        "database_url": f"sqlite+aiosqlite:///{path}",
        "nats_urls": nats.url,
        "admin_token": TOKEN,
    }
    configured: Settings = read_settings(**values, _env_file=None)
    serving = Serving(create_app(configured, make_client=nats.client))
    serving.start()
    wait_until(
        lambda: httpx.get(f"{serving.url}/readyz").status_code == 200, limit=10, what="readiness"
    )
    yield serving.url
    serving.stop()


@schema.parametrize()
@settings(suppress_health_check=list(HealthCheck), deadline=None)
def test_the_api_keeps_its_promises(case: schemathesis.Case[Any], url: str) -> None:
    case.call_and_validate(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"})
