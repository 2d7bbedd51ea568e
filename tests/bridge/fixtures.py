"""The bridge's properties hold on the mock, with SQLite, and on real servers, with either."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.bridge.consuming import Service, service_on
from tests.brokers import Broker, broker_of


@pytest.fixture(params=["mock", pytest.param("real", marks=pytest.mark.real)])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    async with broker_of(request.param) as broker:
        yield broker


@pytest.fixture
async def service(database_url: str, broker: Broker) -> AsyncIterator[Service]:
    """A service that consumes, on each kind of database."""
    async with service_on(database_url, broker) as service:
        yield service


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The virtual clock does not see a PostgreSQL at work, so it would overtake it."""
    items[:] = [item for item in items if not _mixes(item)]


def _mixes(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function):
        return False
    fixtures = item.fixturenames
    parameters = getattr(item, "callspec", None)
    if parameters is None or parameters.params.get("broker") != "mock":
        return False
    on_postgres = parameters.params.get("database_url") == "postgresql"
    return on_postgres or "postgres_url" in fixtures or "postgres" in fixtures
