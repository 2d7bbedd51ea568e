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
from typing import Any

import httpx
from sqlalchemy.engine import URL

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.database_faults import DATABASE_ERRORS
from jetstream_bridge.service.addresses import parse_database_address
from jetstream_bridge.service.child_processes import Children, Terminal
from jetstream_bridge.service.fault_lines import database_address, explained
from jetstream_bridge.service.local_servers import (
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
from jetstream_bridge.service.schema import migrate
from jetstream_bridge.service.settings import BridgeSettings
from jetstream_bridge.service.settings_loading import exit_with, load_settings
from jetstream_bridge.service.shutdown import AFTER_GRACE

_API_PORT = 8000
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NAME = "dev"
_LOCAL_NATS = "nats://127.0.0.1:4222"
_TELL_EVERY = 10.0  # seconds after which it is said what is waited for
_PATIENCE = AFTER_GRACE + 4.0  # seconds beyond its own grace in which a process ends itself


def run_dev(cls: type[BridgeSettings]) -> None:
    """Run everything until a signal comes; ends this process."""
    parser = argparse.ArgumentParser(prog="python -m app.dev", description=__doc__)
    parser.add_argument(
        "--port", type=int, help=f"the API's port; {_API_PORT} or the next free one if left out"
    )
    arguments = parser.parse_args()
    settings = load_settings(cls)
    raise SystemExit(asyncio.run(_Dev(settings, api_port=arguments.port).run()))


class _Dev:
    """One run: what is started, in which order, and how it ends."""

    def __init__(self, settings: BridgeSettings, *, api_port: int | None) -> None:
        self._settings = settings
        self._data = settings.root / ".dev"
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
        announcing = asyncio.create_task(self._announce(environment.get("NATS_URLS")))
        try:
            ended = await self._children.first_to_end()
        finally:
            announcing.cancel()
        self._say(f"{ended.name} ended with status {ended.process.returncode}; stopping the rest")
        return 1

    async def _start_servers(self) -> dict[str, str]:
        """Start what is missing; return what the service's processes must know of it."""
        environment: dict[str, str] = {"LOG_FORMAT": self._settings.log_format or "console"}
        url = parse_database_address(self._settings.database_url.get_secret_value()).url
        if is_local_postgres(url):
            await self._start_database(url)
        if not self._settings.nats_is_given:
            if await nats_answers():
                self._say("using the NATS server that answers on port 4222")
            else:
                environment["NATS_URLS"] = await start_nats(self._children, self._data / "nats")
        return environment

    async def _start_database(self, url: URL) -> None:
        if await postgres_answers(url):
            self._say(f"using the PostgreSQL that answers at {_place(url)}")
        else:
            self._say(f"nothing answers at {_place(url)}; starting a PostgreSQL there")
            await start_postgres(self._children, url, self._data / "postgres")
        if await create_database(url):
            self._say(f"created the database {url.database!r}")

    async def _migrate(self) -> None:
        self._say("migrating the database")
        try:
            await asyncio.to_thread(
                migrate, self._settings.root, self._settings.database_url.get_secret_value()
            )
        except DATABASE_ERRORS as error:
            raise NotStartedError(explained(error, self._settings)) from error
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise NotStartedError(f"the database cannot be migrated: {reason[:500]}") from error

    async def _start_service(self, environment: dict[str, str]) -> None:
        grace = self._settings.shutdown_grace + _PATIENCE
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

    async def _announce(self, nats: str | None) -> None:
        """Say where everything is as soon as it works; `nats` was started here, or not."""
        api, worker = (f"http://127.0.0.1:{port}" for port in (self._api_port, self._worker_port))
        async with httpx.AsyncClient(timeout=5) as client:
            for name, address in (("API", api), ("worker", worker)):
                await self._until_ready(client, name, address)
        needs = "" if self._settings.admin_token else " (set ADMIN_TOKEN to open it)"
        given = "as NATS_URLS says" if self._settings.nats_is_given else _LOCAL_NATS
        lines = (
            f"ready: API {api}, its documentation {api}/docs",
            f"       console {api}/admin{needs}",
            f"       worker {worker}/readyz, metrics {api}/metrics and {worker}/metrics",
            f"       NATS {nats or given}, database {database_address(self._settings)}",
        )
        for line in lines:
            self._say(line)
        peer = self._settings.destination_app
        self._say(f"events go to {peer}; they wait in the stream until a service of that name runs")

    async def _until_ready(self, client: httpx.AsyncClient, name: str, address: str) -> None:
        """Wait; where it takes long, say what is missing."""
        told = loop_time()
        while True:
            failing = "no answer"
            with suppress(httpx.TransportError):
                report = (await client.get(f"{address}/readyz")).json()
                if report["status"] == "ready":
                    return
                checks = report["checks"].items()
                failing = "; ".join(
                    f"{key}: {one['detail']}" for key, one in checks if not one["ok"]
                )
            if loop_time() - told >= _TELL_EVERY:
                told = loop_time()
                self._say(f"{name} at {address} is not ready yet: {failing}")
            await asyncio.sleep(0.5)

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


def _failing(checks: dict[str, dict[str, Any]]) -> str:
    found = (f"{name}: {one['detail']}" for name, one in checks.items() if not one["ok"])
    return "; ".join(found)
