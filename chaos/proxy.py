"""A way to a server that can be cut, and on which nothing may arrive any more for a while.

All proxies of a `Proxies` live on one event loop in a thread of its own; every call from outside
returns when it has taken effect.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from demo.servers import free_port

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
T = TypeVar("T")

_PORTION = 65536  # bytes
_LIMIT = 10.0  # seconds for a call from outside


class Proxy:
    """Listens on a port of its own and hands on whatever comes, in both directions."""

    def __init__(self, proxies: Proxies, connect: Callable[[], Awaitable[Streams]]) -> None:
        self.port = free_port()
        self._proxies = proxies
        self._connect = connect
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()

    async def start(self) -> Self:
        await asyncio.start_server(self._accepted, "127.0.0.1", self.port)
        return self

    def cut(self) -> None:
        """End every connection at once."""
        self._proxies.call(self._cut())

    def hold(self) -> None:
        """Let nothing arrive, in either direction; nobody is told."""
        self._proxies.call(self._hold())

    def release(self) -> None:
        """Let arrive what was sent, and what will be."""
        self._proxies.call(self._release())

    async def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _hold(self) -> None:
        self._open.clear()

    async def _release(self) -> None:
        self._open.set()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        try:
            await self._open.wait()
            with suppress(OSError):
                await self._between((reader, writer), await self._connect())
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _between(self, client: Streams, server: Streams) -> None:
        self._writers.add(server[1])
        try:
            ways = {
                asyncio.create_task(self._hand_on(client[0], server[1])),
                asyncio.create_task(self._hand_on(server[0], client[1])),
            }
            _, open_ways = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in open_ways:
                way.cancel()
        finally:
            self._writers.discard(server[1])
            server[1].transport.abort()

    async def _hand_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_PORTION):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
            writer.close()


class Proxies:
    """The proxies of one run, and the thread that they live on."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()

    def to_port(self, port: int) -> Proxy:
        return self._make(lambda: asyncio.open_connection("127.0.0.1", port))

    def to_socket(self, path: str) -> Proxy:
        return self._make(lambda: asyncio.open_unix_connection(path))

    def _make(self, connect: Callable[[], Awaitable[Streams]]) -> Proxy:
        async def make() -> Proxy:
            return await Proxy(self, connect).start()

        return self.call(make())

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_LIMIT)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_LIMIT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
