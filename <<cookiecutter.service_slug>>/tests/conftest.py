"""Fixtures that every test may use. A test that asks for a real server is marked `real`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.servers import NatsServer, PostgresServer, postgres_server

# How long an example takes says something about the machine, and nothing about the code.
hypothesis.settings.register_profile(
    "service", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("service")

_REAL_FIXTURES = frozenset({"nats_server", "postgres", "postgres_url"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _REAL_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.real)


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
