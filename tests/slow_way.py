"""A long way to a server: everything that passes takes its time, in both directions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.brokers import Broker, MockBroker


@asynccontextmanager
async def far_away(broker: Broker, round_trip: float) -> AsyncIterator[str]:
    """Yield the URL of `broker` at the end of a way that takes `round_trip` seconds and back."""
    if isinstance(broker, MockBroker):
        broker.server.faults.slow(f"{round_trip * 1000:g}ms")
        yield broker.url
        broker.server.faults.clear()
        return
    host, _, port = broker.url.removeprefix("nats://").partition(":")
    async with _proxy(host, int(port), round_trip / 2) as address:
        yield f"nats://{address}"


@asynccontextmanager
async def _proxy(host: str, port: int, delay: float) -> AsyncIterator[str]:
    ways: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server, from_server = await asyncio.open_connection(host, port)
        for way in (_carry(reader, from_server, delay), _carry(to_server, writer, delay)):
            task = asyncio.create_task(way)
            ways.add(task)
            task.add_done_callback(ways.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield "{}:{}".format(*server.sockets[0].getsockname())
    finally:
        server.close()
        for task in tuple(ways):
            task.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Pass on what comes, each piece `delay` seconds later, and the end too."""
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def arrive() -> None:
        while True:
            due, piece = await under_way.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not piece:
                return
            writer.write(piece)
            await writer.drain()

    arriving = asyncio.create_task(arrive())
    with contextlib.suppress(OSError):
        piece = b"-"
        while piece:
            piece = await reader.read(65536)
            under_way.put_nowait((loop.time() + delay, piece))
        await arriving
    arriving.cancel()
    writer.close()
