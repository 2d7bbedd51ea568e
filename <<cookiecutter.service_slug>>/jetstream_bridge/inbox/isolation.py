"""Handlers run side by side, and one that is suspected of ending the process runs with none beside.

Shared turns cost nothing while nobody asks to be alone. Whoever does waits until all turns have
ended, and lets those go first that have waited meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class HandlerIsolation:
    """The turns of all handlers in one process."""

    def __init__(self) -> None:
        self._running = 0
        self._open = asyncio.Event()
        self._open.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._one = asyncio.Lock()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Run beside others."""
        while not self._open.is_set():
            await self._open.wait()
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Run while nobody else does."""
        async with self._one:
            await asyncio.sleep(0)  # those that waited for the one before begin first
            self._open.clear()
            try:
                await self._idle.wait()
                yield
            finally:
                self._open.set()
