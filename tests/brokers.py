"""One interface to the mock and to a real nats-server, so that one test can run on both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

import nats
import pytest
from nats.aio.client import Client

from jetstream_bridge import ClientFactory, GuardedClient
from jetstream_bridge.testing import MockServer, VirtualClock
from jetstream_bridge.testing.servers import NatsServer

_CLOSE_LIMIT = 2.0  # seconds; a server may be frozen

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
        """Return a connected client of nats-py; it is closed with the broker at the latest."""

    async def passes(self, seconds: float) -> None:
        """Let time pass."""

    def kill(self) -> None: ...

    def terminate(self) -> None: ...

    def start(self) -> object: ...


class _Clients:
    """What tests connected: a test that fails leaves it open, and it is closed all the same."""

    def __init__(self) -> None:
        self._clients: list[GuardedClient] = []

    def _kept(self, client: GuardedClient) -> GuardedClient:
        self._clients.append(client)
        return client

    async def close_clients(self) -> None:
        for client in self._clients:
            with suppress(nats.errors.Error, OSError, TimeoutError):  # its server may be gone
                await asyncio.wait_for(client.close(), _CLOSE_LIMIT)
            client.abort()


class MockBroker(_Clients):
    """The mock, its time moved by a virtual clock."""

    is_mock = True

    def __init__(self, server: MockServer, clock: VirtualClock) -> None:
        super().__init__()
        self.server = server
        self.clock = clock
        self.make_client: ClientFactory = server.client

    @property
    def url(self) -> str:
        return self.server.url

    async def connect(self, **options: Any) -> Client:
        return self._kept(await self.server.connect(**options))

    async def passes(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    def kill(self) -> None:
        self.server.kill()

    def terminate(self) -> None:
        self.server.terminate()

    def start(self) -> None:
        self.server.start()


class RealBroker(_Clients):
    """nats-server, in real time."""

    is_mock = False
    make_client: ClientFactory = GuardedClient

    def __init__(self, server: NatsServer) -> None:
        super().__init__()
        self.server = server
        self.make_client = GuardedClient

    @property
    def url(self) -> str:
        return self.server.url

    async def connect(self, **options: Any) -> Client:
        client = self._kept(GuardedClient(tls_demanded=False))
        await client.connect(self.server.url, **{"max_reconnect_attempts": -1, **options})
        return client

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
            mock = MockBroker(MockServer(), clock)
            try:
                yield mock
            finally:
                await mock.close_clients()
    else:
        with NatsServer() as server:
            real = RealBroker(server)
            try:
                yield real
            finally:
                await real.close_clients()
