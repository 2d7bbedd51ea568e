"""Every test here runs on the mock and on a real nats-server, and must see the same."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client

from jetstream_bridge.testing.servers import find_nats_server
from tests.brokers import Broker, broker_of
from tests.contract.lab import Lab


@functools.cache
def server_version() -> tuple[int, ...]:
    """The version of the nats-server that tests run on."""
    told = subprocess.run(
        [str(find_nats_server()), "--version"], capture_output=True, text=True, check=True
    ).stdout
    return tuple(map(int, told.strip().rpartition("v")[2].split(".")[:2]))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """An older server answers some requests otherwise; the mock imitates the newest."""
    marker = item.get_closest_marker("since")
    if marker is None or item.get_closest_marker("real") is None:
        return
    since = tuple(map(int, marker.args[0].split(".")))
    if server_version() < since:
        pytest.skip(f"nats-server answers like this since {marker.args[0]}")


@pytest.fixture(params=["mock", pytest.param("real", marks=pytest.mark.real)])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    async with broker_of(request.param) as broker:
        yield broker


@pytest.fixture
async def client(broker: Broker) -> AsyncIterator[Client]:
    client = await broker.connect()
    yield client
    await client.close()


@pytest.fixture
async def lab(broker: Broker, client: Client) -> Lab:
    return Lab(broker, client)
