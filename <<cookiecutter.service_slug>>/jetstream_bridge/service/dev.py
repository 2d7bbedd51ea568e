"""Everything at once, for a laptop: `python -m app.dev`, or `make run`.

Migrates the database, then runs the API with its relay and the worker on this terminal, and starts
both anew when a file of the service changes. NATS and PostgreSQL are started where nothing answers;
they are this machine's and stay. Ctrl-C stops API and worker; a second one at once.
"""

from __future__ import annotations

import argparse
import asyncio
import signal

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.database_faults import DATABASE_ERRORS
from jetstream_bridge.service.addresses import parse_database_address
from jetstream_bridge.service.child_processes import Child, Terminal
from jetstream_bridge.service.dev_processes import Processes
from jetstream_bridge.service.edits import Edits
from jetstream_bridge.service.fault_lines import database_address, explained
from jetstream_bridge.service.local_postgres import is_local_postgres
from jetstream_bridge.service.local_server import NotStartedError
from jetstream_bridge.service.local_servers import LocalServers
from jetstream_bridge.service.ports import PortTakenError, take_port
from jetstream_bridge.service.schema import migrate
from jetstream_bridge.service.settings import BridgeSettings
from jetstream_bridge.service.settings_loading import exit_with, load_settings

_API_PORT = 8000
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NAME = "dev"


def run_dev(cls: type[BridgeSettings]) -> None:
    """Run everything until a signal comes; ends this process."""
    parser = argparse.ArgumentParser(prog="python -m app.dev", description=__doc__)
    parser.add_argument(
        "--port", type=int, help=f"the API's port; {_API_PORT} or the next free one if left out"
    )
    parser.add_argument(
        "--no-reload", action="store_true", help="end when a process ends, whatever is edited"
    )
    arguments = parser.parse_args()
    settings = load_settings(cls)
    try:
        run = _Dev(settings, api_port=arguments.port, reloads=not arguments.no_reload)
    except PortTakenError as error:
        exit_with([str(error)])
    raise SystemExit(asyncio.run(run.run()))


class _Dev:
    """One run: what is started, in which order, and how it ends."""

    def __init__(self, settings: BridgeSettings, *, api_port: int | None, reloads: bool) -> None:
        self._settings = settings
        self._reloads = reloads
        self._terminal = Terminal()
        wanted = settings.worker_port if "worker_port" in settings.model_fields_set else None
        # Whoever was given a port has it before a free one is looked for.
        if wanted is not None:
            worker = take_port("WORKER_PORT", wanted, default=wanted)
            api = take_port("--port", api_port, default=_API_PORT)
        else:
            api = take_port("--port", api_port, default=_API_PORT)
            worker = take_port("WORKER_PORT", None, default=settings.worker_port)
        self._processes = Processes(settings, self._terminal, api=api, worker=worker)
        self._servers = LocalServers(settings.local_servers, self._say)
        self._edits = Edits(settings.root)
        self._stop = asyncio.Event()
        self._announced = False

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
            await self._edits.close()
            await self._processes.stop()

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._processes.kill()
        else:
            self._say("stopping API and worker; once more to stop at once")
            self._stop.set()

    async def _work(self) -> int:
        begun = loop_time()
        try:
            await self._start_servers()
            await self._migrate()
        except NotStartedError as error:
            self._say(str(error))
            return 1
        if self._reloads:
            self._edits.watch()
        ended = await self._serve(begun)
        self._say(f"{_ended(ended)}; stopping the rest")
        return 1

    async def _start_servers(self) -> None:
        url = parse_database_address(self._settings.database_url.get_secret_value()).url
        if is_local_postgres(url):
            await self._servers.need_postgres(url)
        if not self._settings.nats_is_given:
            await self._servers.need_nats()

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

    async def _serve(self, begun: float) -> Child:
        """Start both processes, and both anew after each edit; return the one that ends it all."""
        while True:
            await self._processes.start()
            ended = await self._until_edited(begun)
            if ended is not None:
                return ended
            begun = loop_time()
            self._say(f"{self._edits.take()} changed; starting API and worker anew")
            await self._processes.stop()

    async def _until_edited(self, begun: float) -> Child | None:
        """Return None for an edit, and else a process that ended.

        One that ends of a mistake in an edit waits for the correction, and the other one goes on.
        """
        edited = asyncio.create_task(self._edits.wait())
        ending = asyncio.create_task(self._processes.first_to_end())
        ready = asyncio.create_task(self._processes.until_ready(self._say))
        try:
            await asyncio.wait([edited, ending, ready], return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                ready.result()
                self._announce(loop_time() - begun)
                await asyncio.wait([edited, ending], return_when=asyncio.FIRST_COMPLETED)
            if ending.done() and not edited.done():
                if not (self._reloads and self._announced):
                    return ending.result()
                self._say(f"{_ended(ending.result())}; it starts anew at the next edit")
                await edited
            return None
        finally:
            for task in (edited, ending, ready):
                task.cancel()

    def _announce(self, seconds: float) -> None:
        if self._announced:
            self._say(f"ready again after {seconds:.1f} s")
        else:
            self._announced = True
            self._say_what_is_where(seconds)

    def _say_what_is_where(self, seconds: float) -> None:
        api, worker = self._processes.addresses
        needs = "" if self._settings.admin_token else "   set ADMIN_TOKEN in .env to open it"
        nats = ", ".join(_without_login(one) for one in self._settings.nats_addresses)
        ends = "Ctrl-C stops API and worker; `make servers` shows the local servers, which stay"
        lines = (
            f"ready after {seconds:.1f} s",
            f"  API       {api}   its documentation: {api}/docs",
            f"  console   {api}/admin{needs}",
            f"  worker    {worker}/readyz   metrics: {api}/metrics, {worker}/metrics",
            f"  NATS      {nats}",
            f"  database  {database_address(self._settings)}",
            f"  events    go to {self._settings.destination_app}, and wait in the stream for it",
            "  next      .venv/bin/python -m app.cli new event order.placed   (other terminal)",
            f"  stop      {ends}",
        )
        for line in lines:
            self._say(line)

    def _say(self, line: str) -> None:
        self._terminal.say(_NAME, line)


def _ended(child: Child) -> str:
    return f"{child.name} ended with status {child.process.returncode}"


def _without_login(address: str) -> str:
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
