"""Fixtures that every test may use. A test that asks for a real server is marked `real`.

Those after the databases run the service on the mock: its API, its worker, and what it published,
with a database of its own and a clock that jumps.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlmodel.ext.asyncio.session import AsyncSession

from app.bridge import Bridge, Consumers
from app.bridge.testing import Deliver, MockServer, Published, VirtualClock
from app.consumers import load_consumers
from app.database import Database, open_database
from app.schema import migrate
from app.settings import Settings, read_settings
from tests.apps import make_app
from tests.servers import NatsServer, PostgresServer, postgres_server
from tests.waiting import eventually

# How long an example takes says something about the machine, and nothing about the code. Every
# run has the same examples; HYPOTHESIS_PROFILE=search (`make search`) looks for new ones.
hypothesis.settings.register_profile(
    "service",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "search",
    hypothesis.settings.get_profile("service"),
    derandomize=False,
    database=hypothesis.database.InMemoryExampleDatabase(),
    max_examples=1000,
    print_blob=True,
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "service"))

ADMIN_TOKEN = "a-token-of-enough-length"
_REAL_FIXTURES = frozenset({"nats_server", "postgres", "postgres_url"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _REAL_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.real)


def pytest_collection_finish() -> None:
    """Spare the collector what is here to stay: a tenth of the suite's time went to it."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def nats_server() -> Iterator[NatsServer]:
    """A running nats-server with JetStream and nothing in its store."""
    with NatsServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running PostgreSQL for all tests of this process."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """An empty PostgreSQL database."""
    if not postgres.is_running:  # a test of crashes left it down
        postgres.start()
    url = postgres.create_database()
    yield url
    if not postgres.is_running:
        postgres.start()
    postgres.drop_database(url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """An SQLite database in a file that does not exist yet."""
    return f"sqlite+aiosqlite:///{tmp_path / 'test.sqlite3'}"


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)],
)
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database; a test that asks for it runs once for each kind."""
    fixture = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    url: str = request.getfixturevalue(fixture)
    return url


# --- the service on the mock


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with the service's tables, made once and copied for each test."""
    path = tmp_path_factory.mktemp("migrated") / "service.sqlite3"
    migrate(f"sqlite+aiosqlite:///{path}")
    return path


@pytest.fixture
async def clock() -> AsyncIterator[VirtualClock]:
    """The event loop's clock, which jumps while everybody waits: `await clock.advance("30s")`."""
    with VirtualClock(asyncio.get_running_loop()) as clock:
        yield clock


@pytest.fixture
def mock_nats(clock: VirtualClock) -> MockServer:
    """A NATS server with JetStream, in memory; faults by name are in `mock_nats.faults`."""
    return MockServer()


@pytest.fixture(scope="session")
def settings_of_orders() -> Settings:
    """The settings of the service called `orders`, whose peer is `billing`, read once."""
    values: dict[str, Any] = {
        "app_name": "orders",
        "destination_app": "billing",
        "nats_env": "test",
        "database_url": "sqlite+aiosqlite:///unused.sqlite3",
        "nats_urls": MockServer().url,
        "admin_token": ADMIN_TOKEN,
    }
    return read_settings(**values, _env_file=None)


@pytest.fixture
def service_settings(settings_of_orders: Settings, migrated_file: Path, tmp_path: Path) -> Settings:
    """The same, on a database of the test's own: a file with the service's tables."""
    path = tmp_path / "service.sqlite3"
    shutil.copyfile(migrated_file, path)
    own = {"database_url": SecretStr(f"sqlite+aiosqlite:///{path}")}
    return settings_of_orders.model_copy(update=own)


@pytest.fixture
async def database(service_settings: Settings) -> AsyncIterator[Database]:
    """The service's database, empty."""
    database = open_database(service_settings)
    yield database
    await database.close()


@pytest.fixture
async def session(database: Database) -> AsyncIterator[AsyncSession]:
    """A session of the test's own; what it writes counts when the test commits it."""
    async with database.sessions() as session:
        yield session


@pytest.fixture
def consumers() -> Consumers:
    """The handlers that `bridge` runs: the service's own. A test module may have others."""
    return load_consumers()


@pytest.fixture
async def bridge(
    service_settings: Settings, database: Database, mock_nats: MockServer, consumers: Consumers
) -> AsyncIterator[Bridge]:
    """The service's bridge, running its relay and its handlers."""
    bridge = Bridge(
        service_settings.bridge(),
        database.sessions,
        relay=True,
        consumers=consumers,
        make_client=mock_nats.client,
    )
    async with bridge:
        yield bridge


@pytest.fixture
async def running_app(service_settings: Settings, mock_nats: MockServer) -> AsyncIterator[FastAPI]:
    """The service's API; its lifespan, which runs the relay, is under way."""
    app = make_app(service_settings, make_client=mock_nats.client)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def client(running_app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service's API, whose lifespan runs the relay."""
    transport = httpx.ASGITransport(running_app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
async def admin(running_app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the same API that carries the operators' token; the stream is there."""
    bridge: Bridge = running_app.state.bridge
    await eventually(lambda: bridge.topology.problem is None, what="the stream")
    transport = httpx.ASGITransport(running_app, raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers=headers
    ) as client:
        yield client


@pytest.fixture
def deliver(
    bridge: Bridge, mock_nats: MockServer, clock: VirtualClock, database: Database
) -> Deliver:
    """`await deliver("customer.created", {...})` hands an event to `bridge` and says how it ended.

    It comes from the peer, through stream, envelope check, inbox, handler and acknowledgement.
    """
    return Deliver(bridge, mock_nats, clock, database.sessions)


@pytest.fixture
def published(service_settings: Settings, mock_nats: MockServer, clock: VirtualClock) -> Published:
    """The events that the service published, as the stream has them."""
    config = service_settings.bridge()
    return Published(mock_nats, clock, env=config.env, app=config.app_name)


@pytest.fixture
def assert_published(published: Published) -> Callable[..., Any]:
    """`await assert_published("customer.created", payload={"email": ...})`: the part counts."""
    return published.assert_published


@pytest.fixture
def assert_not_published(published: Published) -> Callable[..., Any]:
    return published.assert_not_published
