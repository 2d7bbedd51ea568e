"""One interface to the mock and to a real nats-server, so that one test can run on both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import nats
import pytest
from nats.aio.client import Client

from app.bridge import ClientFactory, GuardedClient
from app.bridge.testing import MockServer, VirtualClock
from tests.servers import NatsServer

# For a test of the parametrised fixture `broker` that asks for more than the mock imitates.
on_nats_server = pytest.mark.parametrize(
    "broker", [pytest.param("real", marks=pytest.mark.real)], indirect=True
)


class Broker(Protocol):
    """A NATS server with JetStream and nothing in its store."""

    make_client: ClientFactory

    @property
    def url(self) -> str: ...

    @property
    def is_mock(self) -> bool: ...

    async def connect(self, **options: Any) -> Client:
        """Return a connected client of nats-py."""

    async def passes(self, seconds: float) -> None:
        """Let time pass."""

    def kill(self) -> None: ...

    def terminate(self) -> None: ...

    def start(self) -> object: ...


class MockBroker:
    """The mock, its time moved by a virtual clock."""

    is_mock = True

    def __init__(self, server: MockServer, clock: VirtualClock) -> None:
        self.server = server
        self.clock = clock
        self.make_client: ClientFactory = server.client

    @property
    def url(self) -> str:
        return self.server.url

    async def connect(self, **options: Any) -> Client:
        return await self.server.connect(**options)

    async def passes(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    def kill(self) -> None:
        self.server.kill()

    def terminate(self) -> None:
        self.server.terminate()

    def start(self) -> None:
        self.server.start()


class RealBroker:
    """nats-server, in real time."""

    is_mock = False
    make_client: ClientFactory = GuardedClient

    def __init__(self, server: NatsServer) -> None:
        self.server = server
        self.make_client = GuardedClient

    @property
    def url(self) -> str:
        return self.server.url

    async def connect(self, **options: Any) -> Client:
        return await nats.connect(self.server.url, **{"max_reconnect_attempts": -1, **options})

    async def passes(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def kill(self) -> None:
        self.server.kill()

    def terminate(self) -> None:
        self.server.terminate()

    def start(self) -> None:
        self.server.start()


@asynccontextmanager
async def broker_of(kind: str) -> AsyncIterator[Broker]:
    """Yield the broker called `kind`: "mock" or "real"."""
    if kind == "mock":
        with VirtualClock(asyncio.get_running_loop()) as clock:
            yield MockBroker(MockServer(), clock)
    else:
        with NatsServer() as server:
            yield RealBroker(server)
