"""A service's tests: `pytest_plugins = ["jetstream_bridge.testing.plugin"]` in their conftest.

It brings the service on the mock, each test with a database of its own and a clock that jumps:
`client` (the API), `deliver` (an event for a handler), `assert_published`, `session`, `peer` (the
service at the other end), `eventually`. With
`pytest --real` the same tests run on nats-server, PostgreSQL and the world's clock; tests marked
`mock`, which need faults by name or jumps of the clock, are left out then.

A test file or a conftest replaces what it wants otherwise: `consumers` (the handlers),
`service_values` (settings), `service_code` (where the service's code is).
"""

from __future__ import annotations

import asyncio
import itertools
import pkgutil
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import Bridge, Consumers
from jetstream_bridge.service.bridge_config import bridge_config
from jetstream_bridge.service.database import Database
from jetstream_bridge.service.extensions import Extensions
from jetstream_bridge.service.schema import migrate
from jetstream_bridge.service.settings import BridgeSettings
from jetstream_bridge.testing.apps import client_of, make_app
from jetstream_bridge.testing.clock import VirtualClock
from jetstream_bridge.testing.deliver import Deliver
from jetstream_bridge.testing.postgres import PostgresServer, postgres_server
from jetstream_bridge.testing.published import Published
from jetstream_bridge.testing.real import RealClock, real_server
from jetstream_bridge.testing.server import MockServer
from jetstream_bridge.testing.servers import NatsServer
from jetstream_bridge.testing.service_code import (
    ADMIN_TOKEN,
    ServiceCode,
    base_settings,
    extensions,
    service_code,
    service_values,
)

__all__ = [
    "ADMIN_TOKEN",
    "ServiceCode",
    "base_settings",
    "extensions",
    "service_code",
    "service_values",
]

_WITHIN = 30.0  # seconds on the test's clock for what comes by itself
_PAUSE = 0.02


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--real",
        action="store_true",
        help="run on a real nats-server and PostgreSQL in place of the mock and SQLite",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "mock: needs faults by name, or a clock that jumps")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--real"):
        left_out = [item for item in items if item.get_closest_marker("mock") is not None]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


# --- servers


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
async def clock(pytestconfig: pytest.Config) -> AsyncIterator[VirtualClock]:
    """The event loop's clock, which jumps while everybody waits: `await clock.advance("30s")`."""
    if pytestconfig.getoption("--real"):
        yield cast(VirtualClock, RealClock())
        return
    with VirtualClock(asyncio.get_running_loop()) as clock:
        yield clock


@pytest.fixture
async def mock_nats(
    request: pytest.FixtureRequest, base_settings: BridgeSettings, clock: VirtualClock
) -> AsyncIterator[MockServer]:
    """A NATS server with JetStream, in memory; faults by name are in `mock_nats.faults`."""
    if not request.config.getoption("--real"):
        yield MockServer()
        return
    config = bridge_config(base_settings)
    server: NatsServer = request.getfixturevalue("nats_server")
    async with real_server(server, env=config.env, app=config.app_name) as watched:
        yield cast(MockServer, watched)


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory, base_settings: BridgeSettings) -> Path:
    """An SQLite file with the service's tables, made once and copied for each test."""
    path = tmp_path_factory.mktemp("migrated") / "service.sqlite3"
    migrate(base_settings.root, f"sqlite+aiosqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_template(postgres: PostgresServer, base_settings: BridgeSettings) -> str:
    """The name of a PostgreSQL database with the service's tables, to be copied for each test."""
    name = "migrated"
    migrate(base_settings.root, postgres.create_database(name))
    return name


@pytest.fixture
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Makes databases with the service's tables: SQLite files, or with `--real` PostgreSQL's."""
    names = itertools.count(1)
    with ExitStack() as stack:

        def make() -> str:
            if request.config.getoption("--real"):
                server: PostgresServer = request.getfixturevalue("postgres")
                template: str = request.getfixturevalue("migrated_template")
                url = server.create_database(template=template)
                stack.callback(server.drop_database, url)
                return url
            path = tmp_path / f"service-{next(names)}.sqlite3"
            shutil.copyfile(request.getfixturevalue("migrated_file"), path)
            return f"sqlite+aiosqlite:///{path}"

        yield make


@pytest.fixture
def service_settings(
    base_settings: BridgeSettings, new_database: Callable[[], str], mock_nats: MockServer
) -> BridgeSettings:
    """The service's settings on a database and a NATS of the test's own."""
    own = {"database_url": SecretStr(new_database()), "nats_urls": SecretStr(mock_nats.url)}
    return base_settings.model_copy(update=own)


# --- what runs


@pytest.fixture
async def database(
    service_settings: BridgeSettings, extensions: Extensions
) -> AsyncIterator[Database]:
    """The service's database, empty."""
    database = extensions.open_database(service_settings)
    yield database
    await database.close()


@pytest.fixture
async def session(database: Database) -> AsyncIterator[AsyncSession]:
    """A session of the test's own; what it writes counts when the test commits it."""
    async with database.sessions() as session:
        yield session


@pytest.fixture
def consumers(service_code: ServiceCode) -> Consumers:
    """The handlers that `bridge` runs: the service's own. A test module may have others."""
    load: Callable[[], Consumers] = pkgutil.resolve_name(service_code.consumers)
    return load()


@pytest.fixture
async def bridge(
    service_settings: BridgeSettings,
    database: Database,
    mock_nats: MockServer,
    consumers: Consumers,
    extensions: Extensions,
) -> AsyncIterator[Bridge]:
    """The service's bridge, running its relay and its handlers."""
    async with extensions.opened(service_settings, database) as resources:
        bridge = Bridge(
            bridge_config(service_settings),
            database.sessions,
            relay=True,
            consumers=consumers,
            resources=resources,
            declared=extensions.events,
            make_client=mock_nats.client,
        )
        async with bridge:
            yield bridge


@pytest.fixture
async def running_app(
    service_code: ServiceCode,
    service_settings: BridgeSettings,
    mock_nats: MockServer,
    extensions: Extensions,
) -> AsyncIterator[FastAPI]:
    """The service's API; its lifespan, which runs the relay, is under way."""
    create_app = pkgutil.resolve_name(service_code.app)
    app = make_app(create_app, service_settings, make_client=mock_nats.client)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def client(running_app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service's API, whose lifespan runs the relay."""
    async with client_of(running_app) as client:
        yield client


Eventually = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.fixture
def eventually(clock: VirtualClock) -> Eventually:
    """`await eventually(condition)`: lets time pass until it holds, and fails after 10 s.

    The condition may be a function or a coroutine function.
    """

    async def until(condition: Callable[[], object]) -> None:
        began = clock.elapsed
        while True:
            held = condition()
            if await held if isinstance(held, Awaitable) else held:
                return
            name = getattr(condition, "__name__", "the condition")
            assert clock.elapsed - began < _WITHIN, f"{name} did not hold within {_WITHIN:g} s"
            await clock.advance(_PAUSE)

    return until


@pytest.fixture
async def admin(running_app: FastAPI, eventually: Eventually) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the same API that carries the operators' token; the stream is there."""
    bridge: Bridge = running_app.state.bridge
    await eventually(lambda: bridge.topology.problem is None)
    async with client_of(running_app, authorization=f"Bearer {ADMIN_TOKEN}") as client:
        yield client


@pytest.fixture
async def peer(
    service_settings: BridgeSettings,
    new_database: Callable[[], str],
    mock_nats: MockServer,
    consumers: Consumers,
    extensions: Extensions,
) -> AsyncIterator[Database]:
    """The database of the service at the other end, which runs the same handlers meanwhile."""
    settings = service_settings.model_copy(
        update={
            "app_name": service_settings.destination_app,
            "destination_app": service_settings.app_name,
            "database_url": SecretStr(new_database()),
        }
    )
    database = extensions.open_database(settings)
    async with (
        extensions.opened(settings, database) as resources,
        Bridge(
            bridge_config(settings),
            database.sessions,
            consumers=consumers,
            resources=resources,
            declared=extensions.events,
            make_client=mock_nats.client,
        ),
    ):
        yield database
    await database.close()


@pytest.fixture
def deliver(
    bridge: Bridge, mock_nats: MockServer, clock: VirtualClock, database: Database
) -> Deliver:
    """`await deliver("customer.created", {...})` hands an event to `bridge` and says how it ended.

    It comes from the peer, through stream, envelope check, inbox, handler and acknowledgement.
    """
    return Deliver(bridge, mock_nats, clock, database.sessions)


@pytest.fixture
def published(
    service_settings: BridgeSettings, mock_nats: MockServer, clock: VirtualClock
) -> Published:
    """The events that the service published, as the stream has them."""
    config = bridge_config(service_settings)
    return Published(mock_nats, clock, env=config.env, app=config.app_name)


@pytest.fixture
def assert_published(published: Published) -> Callable[..., Any]:
    """`await assert_published("customer.created", payload={"email": ...})`: the part counts."""
    return published.assert_published


@pytest.fixture
def assert_not_published(published: Published) -> Callable[..., Any]:
    """`await assert_not_published("customer.created")`, once the relay had its time."""
    return published.assert_not_published
