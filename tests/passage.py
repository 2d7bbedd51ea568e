"""A network between a client and PostgreSQL that a test can take away.

Frozen, it keeps every socket open, takes new connections, and lets nothing through: as a firewall
that forgot a connection does, or a host that vanished behind a load balancer.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import make_url


class Passage:
    """Leads from a port of loopback to a server's Unix socket."""

    def __init__(self, url: str) -> None:
        """`url` is the database's, with the folder of its socket as `host`."""
        self._inner = make_url(url)
        self._socket = Path(str(self._inner.query["host"])) / ".s.PGSQL.5432"
        self._open = asyncio.Event()
        self._open.set()
        self._generation = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        outer = self._inner.set(host="127.0.0.1", port=port, query={}, password="any")
        return outer.render_as_string(hide_password=False)

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    def freeze(self) -> None:
        """Nothing gets through any more."""
        self._open.clear()

    def thaw(self) -> None:
        """New connections work; those of before stay silent for ever."""
        self._generation += 1
        self._open.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        closing = (writer.wait_closed() for writer in self._writers)
        await asyncio.gather(*closing, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.append(writer)
        generation = self._generation
        try:
            await self._let_through(generation)
            there, back = await asyncio.open_unix_connection(str(self._socket))
            self._writers.append(back)
            await asyncio.gather(
                self._pump(reader, back, generation), self._pump(there, writer, generation)
            )
        except OSError:
            writer.close()
        finally:
            self._tasks.discard(task)

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, generation: int
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._let_through(generation)
                target.write(data)
                await target.drain()
        target.close()

    async def _let_through(self, generation: int) -> None:
        await self._open.wait()
        if generation != self._generation:
            await asyncio.Event().wait()
