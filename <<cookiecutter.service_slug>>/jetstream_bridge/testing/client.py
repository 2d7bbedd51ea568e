"""nats-py's own client, with the mock server at the other end in place of a socket.

Everything that it does is nats-py's: states, callbacks, reconnecting, drain, requests, JetStream's
context. Only the bytes take another way. A call that the server does not imitate raises
`NotSimulated` where it was made.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import ParseResult

from nats.aio.msg import Msg
from nats.aio.subscription import (
    DEFAULT_SUB_PENDING_BYTES_LIMIT,
    DEFAULT_SUB_PENDING_MSGS_LIMIT,
    Subscription,
)
from nats.aio.transport import Transport

from jetstream_bridge.nats.client import GuardedClient
from jetstream_bridge.testing.errors import NotSimulated

if TYPE_CHECKING:
    import asyncio

    from jetstream_bridge.testing.peer import Peer
    from jetstream_bridge.testing.server import MockServer


class MemoryTransport(Transport):
    """A socket's place: what is written reaches the server at once."""

    def __init__(self, server: MockServer) -> None:
        self._server = server
        self._peer: Peer | None = None

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        self.close()
        self._peer = self._server.accept()

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: int,
    ) -> None:
        raise NotSimulated("a connection with TLS")

    def write(self, payload: bytes) -> None:
        if self._peer is None or self._peer.closed:
            raise ConnectionResetError("the mock server closed the connection")
        self._peer.receive(payload)

    def writelines(self, payload: list[bytes]) -> None:
        self.write(b"".join(payload))

    async def drain(self) -> None:
        return None

    async def read(self, buffer_size: int) -> bytes:
        return await self._connected().reader.read(buffer_size)

    async def readline(self) -> bytes:
        return await self._connected().reader.readline()

    async def wait_closed(self) -> None:
        return None

    def close(self) -> None:
        if self._peer is not None:
            self._peer.close()

    def at_eof(self) -> bool:
        return self._peer is None or self._peer.reader.at_eof()

    def __bool__(self) -> bool:
        return True  # or else nats-py would put a socket in its place

    def _connected(self) -> Peer:
        if self._peer is None:
            raise ConnectionError("the transport is not connected")
        return self._peer


class MockClient(GuardedClient):
    """A client of a `MockServer`."""

    def __init__(self, server: MockServer, *, tls_demanded: bool = False) -> None:
        super().__init__(tls_demanded=tls_demanded)
        self._server = server
        self._memory = MemoryTransport(server)
        self._transport = self._memory

    def abort(self) -> None:
        super().abort()
        self._memory.close()

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        reply: str = "",
        headers: dict[str, Any] | None = None,
    ) -> None:
        self._server.check_simulated(subject, payload)
        await super().publish(subject, payload, reply, headers)

    def send(self, subject: str, reply: str, headers: bytes, payload: bytes) -> None:
        self._server.check_simulated(subject, payload)
        super().send(subject, reply, headers, payload)

    async def subscribe(
        self,
        subject: str,
        queue: str = "",
        cb: Callable[[Msg], Awaitable[None]] | None = None,
        future: asyncio.Future[Msg] | None = None,
        max_msgs: int = 0,
        pending_msgs_limit: int = DEFAULT_SUB_PENDING_MSGS_LIMIT,
        pending_bytes_limit: int = DEFAULT_SUB_PENDING_BYTES_LIMIT,
    ) -> Subscription:
        self._server.check_subscription(subject, queue)
        return await super().subscribe(
            subject, queue, cb, future, max_msgs, pending_msgs_limit, pending_bytes_limit
        )
