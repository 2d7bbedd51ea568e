"""Fixtures that every test of the package may use. A test that asks for a real server is `real`.

The service on the mock comes from the package's own plugin, as a service's tests have it; it is
called `orders` here, and its peer `billing`.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from jetstream_bridge.testing.postgres import PostgresServer

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

_REAL_FIXTURES = frozenset({"nats_server", "postgres", "postgres_url"})

pytest_plugins = [
    "jetstream_bridge.testing.plugin",
    "tests.bridge.fixtures",
    "tests.open_ends",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _REAL_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.real)


def pytest_collection_finish() -> None:
    """Spare the collector what is here to stay: a tenth of the suite's time went to it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def service_values() -> dict[str, Any]:
    return {"app_name": "orders", "destination_app": "billing"}


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
