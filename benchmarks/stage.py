"""Servers, databases and processes of the measurements; all of them end with the block they are in.

One PostgreSQL serves the whole run and each measurement gets a fresh database of it, a copy of one
that was prepared. A nats-server and every measured process live for one measurement.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.error import URLError
from urllib.request import urlopen

import asyncpg
import nats
import psutil
from nats.aio.client import Client

from benchmarks.work import WORK_TABLE, driver_url
from jetstream_bridge.testing.postgres import PostgresServer
from jetstream_bridge.testing.server_processes import free_port
from jetstream_bridge.testing.servers import NatsServer

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "<<cookiecutter.service_slug>>"
LIMIT = 180.0  # seconds that one measurement may wait for anything
PREPARATION_LIMIT = 600.0  # seconds of a statement that fills a table
BASE = "bench_base"  # the database with the service's migrations, of which the others are copies
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "NATS_SERVER")  # of this process' environment
_LOG_TAIL = 2000  # characters of a process' log that an error shows


class Child:
    """A measured process; its log lines go to a file."""

    def __init__(self, name: str, command: list[str], env: dict[str, str], folder: Path) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def check(self) -> None:
        """Raise `RuntimeError`, with the end of its log, when the process has failed."""
        if self._process.poll() not in (None, 0, -signal.SIGTERM):
            tail = self._log.read_text(errors="replace")[-_LOG_TAIL:]
            raise RuntimeError(
                f"{self.name} ended with status {self._process.returncode}; its last lines:\n{tail}"
            )

    def memory(self) -> int:
        """Return the bytes that it has in memory."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def terminate(self) -> None:
        """End it in order, as a service is ended."""
        self._process.terminate()
        self._process.wait(30)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(10)


@dataclass
class Scene:
    """What one measurement has: a database, a nats-server, and connections to look at them."""

    database: str
    server: str
    peers: Path | None
    connection: asyncpg.Connection
    client: Client
    folder: Path
    children: list[Child] = field(default_factory=list)

    def start(self, *command: str, name: str, **settings: str) -> Child:
        child = Child(name, list(command), _environment(settings), self.folder)
        self.children.append(child)
        return child

    def bare(self, loop: str, number: int) -> Child:
        return self._loop(sys.executable, "benchmarks.bare", loop, number)

    def peer(self, loop: str, number: int) -> Child:
        if self.peers is None:
            raise RuntimeError("the peers have no environment; run `make bench`, or give --peers")
        return self._loop(str(self.peers), "benchmarks.peers", loop, number)

    def _loop(self, python: str, module: str, loop: str, number: int) -> Child:
        arguments = (loop, driver_url(self.database), self.server, str(number))
        return self.start(python, "-m", module, *arguments, name=loop)

    def service(self, *module: str, app: str, peer: str, **settings: str) -> Child:
        """Start a process of the service `app`, as its Makefile does: INFO, JSON lines."""
        return self.start(
            sys.executable,
            "-m",
            *module,
            name=f"{app}-{len(self.children)}",
            APP_NAME=app,
            DESTINATION_APP=peer,
            NATS_ENV="bench",
            NATS_URLS=self.server,
            DATABASE_URL=self.database,
            LOG_LEVEL="INFO",
            LOG_FORMAT="json",
            **settings,
        )

    async def until(
        self, condition: Callable[[], Awaitable[bool]], what: str, *, limit: float = LIMIT
    ) -> None:
        """Ask again until `condition` holds; raise `TimeoutError` naming `what` after `limit` s."""
        deadline = asyncio.get_running_loop().time() + limit
        while not await condition():
            for child in self.children:
                child.check()
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError(f"{what} did not happen within {limit:g} s")
            await asyncio.sleep(0.1)

    async def until_ready(self, port: int) -> None:
        """Wait until the process whose probes are on `port` says that it is ready."""

        async def ready() -> bool:
            return await asyncio.to_thread(_is_ready, port)

        await self.until(ready, f"/readyz of port {port}", limit=60)


def _is_ready(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=3) as answer:
            return b'"ready"' in answer.read()
    except (URLError, OSError):
        return False


class Stage:
    """The run's PostgreSQL, and the databases that were prepared on it."""

    def __init__(self, peers: Path | None) -> None:
        self._peers = peers
        self._stack = ExitStack()
        self._prepared: set[str] = set()

    def __enter__(self) -> Self:
        try:
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
            self.postgres = self._stack.enter_context(PostgresServer(flushes=True))
            self._migrate(self.postgres.create_database(BASE))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _migrate(self, url: str) -> None:
        command = [sys.executable, "-m", "alembic", "-c", str(TEMPLATE / "alembic.ini")]
        names = {"APP_NAME": "orders", "DESTINATION_APP": "billing", "DATABASE_URL": url}
        done = subprocess.run(
            [*command, "upgrade", "heads"],
            env=_environment(names),
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"the migrations failed:\n{done.stderr[-_LOG_TAIL:]}")
        for statement in (WORK_TABLE, _COMMITS_TABLE):
            self.postgres.run(statement, database=BASE)

    async def prepared(self, name: str, statements: tuple[str, ...]) -> str:
        """Return the name of a database, made by `statements` when it is first asked for."""
        if name not in self._prepared:
            url = self.postgres.create_database(name, template=BASE)
            connection = await asyncpg.connect(driver_url(url))
            for statement in statements:  # one by one: VACUUM wants no transaction around it
                await connection.execute(statement, timeout=PREPARATION_LIMIT)
            await connection.close()
            self._prepared.add(name)
        return name

    @asynccontextmanager
    async def scene(self, template: str | None = BASE) -> AsyncIterator[Scene]:
        """A fresh database, a copy of `template` (None: an empty one), and a fresh nats-server."""
        with (
            tempfile.TemporaryDirectory(dir=self._folder) as folder,
            self._database(template or "template1") as url,
            NatsServer() as server,
        ):
            connection = await asyncpg.connect(driver_url(url))
            client = await nats.connect(server.url)
            scene = Scene(url, server.url, self._peers, connection, client, Path(folder))
            try:
                yield scene
            finally:
                for child in scene.children:
                    child.stop()
                await client.close()
                await connection.close()

    @contextmanager
    def _database(self, template: str) -> Iterator[str]:
        url = self.postgres.create_database(template=template)
        try:
            yield url
        finally:
            self.postgres.drop_database(url)


_COMMITS_TABLE = "CREATE TABLE bench_commits (event_id text, number integer, at double precision)"


def _environment(settings: dict[str, str]) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "PYTHONPATH": f"{ROOT}{os.pathsep}{TEMPLATE}", **settings}


def api_command(port: int) -> tuple[str, ...]:
    """The module and arguments of the template's own API, whose relay is measured."""
    return ("uvicorn", "app.main:app", "--host", "127.0.0.1", "--port", str(port))


def bench_api_command(port: int) -> tuple[str, ...]:
    where = ("--host", "127.0.0.1", "--port", str(port))
    return ("uvicorn", "--factory", "benchmarks.service:api", *where)


__all__ = ["BASE", "Child", "Scene", "Stage", "api_command", "bench_api_command", "free_port"]
