"""The API and the worker of `make run`, on sockets that are taken before anything starts.

The sockets stay open while the processes are started anew, so no other process gets their ports and
a request that comes meanwhile waits.
"""

from __future__ import annotations

import asyncio
import math
import socket
import sys
from collections.abc import Callable

import httpx

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.service.child_processes import Child, Children, Terminal
from jetstream_bridge.service.settings import BridgeSettings
from jetstream_bridge.service.shutdown import AFTER_GRACE

_PATIENCE = AFTER_GRACE + 4.0  # seconds beyond its own grace in which a process ends itself
_TELL_EVERY = 5.0  # seconds after which it is said what is waited for
_ANSWER = 5.0  # seconds for one answer


class Processes:
    """Both processes of the service."""

    def __init__(
        self,
        settings: BridgeSettings,
        terminal: Terminal,
        *,
        api: socket.socket,
        worker: socket.socket,
    ) -> None:
        self._settings = settings
        self._api = api
        self._worker = worker
        self._children = Children(terminal)

    @property
    def addresses(self) -> tuple[str, str]:
        """Of the API and of the worker."""
        return _address(self._api), _address(self._worker)

    async def start(self) -> None:
        grace = self._settings.shutdown_grace + _PATIENCE
        patience = math.ceil(self._settings.shutdown_grace)  # for requests that are being answered
        environment = {"LOG_FORMAT": self._settings.log_format or "console"}
        await self._children.start(
            "api",
            [
                *(sys.executable, "-m", "uvicorn", "app.main:app"),
                *("--fd", str(self._api.fileno())),
                *("--timeout-graceful-shutdown", str(patience)),
            ],
            environment=environment,
            grace=grace,
            sockets=[self._api],
        )
        await self._children.start(
            "worker",
            [sys.executable, "-m", "app.worker", "--fd", str(self._worker.fileno())],
            environment=environment,
            grace=grace,
            sockets=[self._worker],
        )

    async def stop(self) -> None:
        """Stop both, the worker first."""
        await self._children.stop()

    def kill(self) -> None:
        self._children.kill()

    async def first_to_end(self) -> Child:
        """Wait until one of them ends by itself, and return it."""
        return await self._children.first_to_end()

    async def until_ready(self, say: Callable[[str], None]) -> None:
        """Wait for both; where it takes long, say which check fails."""
        async with httpx.AsyncClient(timeout=_ANSWER) as client:
            for name, address in zip(("API", "worker"), self.addresses, strict=True):
                await _until_ready(client, name, address, say)


async def _until_ready(
    client: httpx.AsyncClient, name: str, address: str, say: Callable[[str], None]
) -> None:
    told = loop_time()
    while (failing := await _failing(client, address)) is not None:
        if loop_time() - told >= _TELL_EVERY:
            told = loop_time()
            say(f"{name} at {address} is not ready yet: {failing}")
        await asyncio.sleep(0.2)


async def _failing(client: httpx.AsyncClient, address: str) -> str | None:
    """The checks of `/readyz` that fail, or None."""
    try:
        report = (await client.get(f"{address}/readyz")).json()
    except httpx.TransportError:
        return "it does not answer yet"
    if report["status"] == "ready":
        return None
    checks = report["checks"].items()
    return "; ".join(f"{key}: {one['detail']}" for key, one in checks if not one["ok"])


def _address(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"
