"""Every test here runs on the mock and on a real nats-server, and must see the same."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client

from tests.brokers import Broker, broker_of
from tests.contract.lab import Lab


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
