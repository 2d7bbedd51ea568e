"""A connection under test, and what it announced."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from jetstream_bridge.core.config import ConnectionOptions
from jetstream_bridge.core.limits import Timing
from jetstream_bridge.nats.connection import Connection, ConnectionEvent

CONNECTED = ConnectionEvent.CONNECTED
DISCONNECTED = ConnectionEvent.DISCONNECTED
REPLACED = ConnectionEvent.REPLACED
CLOSED = ConnectionEvent.CLOSED


class Watched:
    """A connection, and the events that it announced."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.events: list[ConnectionEvent] = []
        connection.add_listener(self.events.append)


@contextlib.asynccontextmanager
async def connected(
    *urls: str,
    timing: Timing | None = None,
    inbox_prefix: str | None = None,
    wait: bool = True,
    **options: Any,
) -> AsyncIterator[Watched]:
    connection = Connection(
        ConnectionOptions(urls=urls, **options),
        name="orders",
        inbox_prefix=inbox_prefix,
        timing=timing,
    )
    watched = Watched(connection)
    await connection.start()
    try:
        if wait:
            await connection.wait_connected(10)
        yield watched
    finally:
        await connection.close(timeout=3)
