"""Everything at once, for a laptop: `python -m app.dev`, or `make run`.

Migrates the database, then runs the API with its relay and the worker on this terminal. NATS and
PostgreSQL are started too where nothing answers. Ctrl-C stops all of it; a second one at once.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import signal
import sys
from contextlib import suppress

import httpx
from sqlalchemy.engine import URL, make_url

from app.children import Children, Terminal
from app.local_servers import (
    NotStartedError,
    create_database,
    free_port,
    is_local_postgres,
    nats_answers,
    port_is_free,
    postgres_answers,
    start_nats,
    start_postgres,
)
from app.schema import migrate
from app.settings import ROOT, Settings, exit_with, load_settings

_DATA = ROOT / ".dev"
_API_PORT = 8000
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NAME = "dev"
_AFTER_GRACE = 15.0  # seconds that a process has beyond its own grace


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m app.dev", description=__doc__)
    parser.add_argument(
        "--port", type=int, help=f"the API's port; {_API_PORT} or the next free one if left out"
    )
    arguments = parser.parse_args()
    settings = load_settings()
    raise SystemExit(asyncio.run(_Dev(settings, api_port=arguments.port).run()))


class _Dev:
    """One run: what is started, in which order, and how it ends."""

    def __init__(self, settings: Settings, *, api_port: int | None) -> None:
        self._settings = settings
        wanted = settings.worker_port if "worker_port" in settings.model_fields_set else None
        self._api_port = _chosen_port("--port", api_port, default=_API_PORT, taken=wanted)
        self._worker_port = _chosen_port(
            "WORKER_PORT", wanted, default=settings.worker_port, taken=self._api_port
        )
        self._terminal = Terminal()
        self._children = Children(self._terminal)
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Run until a signal comes (status 0) or something ends by itself (status 1)."""
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)
        working = asyncio.create_task(self._work())
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                working.cancel()
                await asyncio.wait([working])
            return 0 if self._stop.is_set() else working.result()
        finally:
            stopped.cancel()
            await self._children.stop()

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._children.kill()
        else:
            self._say("stopping; once more to stop at once")
            self._stop.set()

    async def _work(self) -> int:
        try:
            environment = await self._start_servers()
            await self._migrate()
        except NotStartedError as error:
            self._say(str(error))
            return 1
        await self._start_service(environment)
        announcing = asyncio.create_task(self._announce())
        try:
            ended = await self._children.first_to_end()
        finally:
            announcing.cancel()
        self._say(f"{ended.name} ended with status {ended.process.returncode}; stopping the rest")
        return 1

    async def _start_servers(self) -> dict[str, str]:
        """Start what is missing; return what the service's processes must know of it."""
        environment: dict[str, str] = {"LOG_FORMAT": self._settings.log_format or "console"}
        url = make_url(self._settings.database_url.get_secret_value())
        if is_local_postgres(url):
            await self._start_database(url)
        if not self._settings.nats_is_given:
            if await nats_answers():
                self._say("using the NATS server that answers on port 4222")
            else:
                environment["NATS_URLS"] = await start_nats(self._children, _DATA / "nats")
        return environment

    async def _start_database(self, url: URL) -> None:
        if await postgres_answers(url):
            self._say(f"using the PostgreSQL that answers at {_place(url)}")
        else:
            self._say(f"nothing answers at {_place(url)}; starting a PostgreSQL there")
            await start_postgres(self._children, url, _DATA / "postgres")
        if await create_database(url):
            self._say(f"created the database {url.database!r}")

    async def _migrate(self) -> None:
        self._say("migrating the database")
        try:
            await asyncio.to_thread(migrate, self._settings.database_url.get_secret_value())
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise NotStartedError(f"the database cannot be migrated: {reason[:500]}") from error

    async def _start_service(self, environment: dict[str, str]) -> None:
        grace = self._settings.shutdown_grace + _AFTER_GRACE
        patience = math.ceil(self._settings.shutdown_grace)  # for requests that are being answered
        await self._children.start(
            "api",
            [
                *(sys.executable, "-m", "uvicorn", "app.main:app"),
                *("--port", str(self._api_port), "--timeout-graceful-shutdown", str(patience)),
            ],
            environment=environment,
            grace=grace,
        )
        await self._children.start(
            "worker",
            [sys.executable, "-m", "app.worker"],
            environment=environment | {"WORKER_PORT": str(self._worker_port)},
            grace=grace,
        )

    async def _announce(self) -> None:
        """Say where everything is as soon as it works."""
        addresses = [f"http://127.0.0.1:{port}" for port in (self._api_port, self._worker_port)]
        async with httpx.AsyncClient(timeout=5) as client:
            for address in addresses:
                await _until_ready(client, address)
        self._say(f"ready: API {addresses[0]} (try {addresses[0]}/docs), worker {addresses[1]}")

    def _say(self, line: str) -> None:
        self._terminal.say(_NAME, line)


def _chosen_port(name: str, given: int | None, *, default: int, taken: int | None) -> int:
    """Return the port that was asked for, which must be free, or else a free one."""
    if given is None:
        return free_port(default, but_not=taken)
    if given == taken or not port_is_free(given):
        exit_with([f"{name}: {given} is in use; stop the other process, or choose another port"])
    return given


def _place(url: URL) -> str:
    return f"{url.host}:{url.port or 5432}"


async def _until_ready(client: httpx.AsyncClient, address: str) -> None:
    while True:
        with suppress(httpx.TransportError):
            if (await client.get(f"{address}/readyz")).status_code == 200:
                return
        await asyncio.sleep(0.2)


if __name__ == "__main__":
    main()
