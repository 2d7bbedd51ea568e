"""What the tests of two services look at, beside the services' own HTTP: databases and the wire."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from sqlalchemy import text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from demo.customers import Side
from demo.generating import MARKS
from demo.pair import ENV, Pair, Service
from demo.processes import WARM_START, Process
from demo.servers import free_port
from jetstream_bridge.testing.barrier import barrier

_PARTS = Path(__file__).with_name("parts")
PARTS = MARKS | {
    "app/routers/trials.py": _PARTS / "trials_router.py",
    "app/consumers/poison.py": _PARTS / "poison_consumer.py",
    "migrations/versions/0004_trials.py": _PARTS / "trials_migration.py",
}
SUBJECTS = {f"{ENV}.{path}" for path in ("orders.sync.billing", "billing.sync.orders")}
DEAD_LETTERS = {f"{ENV}.{app}.sync.dlq" for app in ("orders", "billing")}
DURABLES = {f"{ENV}-{app}-workers" for app in ("orders", "billing")}


def rows(service: Service, statement: str) -> Sequence[Row[Any]]:
    """Read from the service's database, past the service."""

    async def read() -> Sequence[Row[Any]]:
        engine = create_async_engine(service.database_url, poolclass=NullPool)
        async with engine.connect() as connection:
            found = (await connection.execute(text(statement))).all()
        await engine.dispose()
        return found

    return asyncio.run(read())


def number(service: Service, table: str, condition: str = "true") -> int:
    """How many rows of `table` fulfil `condition`."""
    found: int = rows(service, f"SELECT count(*) FROM {table} WHERE {condition}")[0][0]
    return found


@asynccontextmanager
async def connected(pair: Pair) -> AsyncIterator[Client]:
    client = await nats.connect(pair.nats.url)
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def wire(pair: Pair) -> AsyncIterator[Counter[str]]:
    """Count what is published on the pair's subjects, by event id.

    A plain subscription sees each attempt, also one that the stream drops as a duplicate.
    """
    seen: Counter[str] = Counter()

    async def count(message: Msg) -> None:
        seen[(message.headers or {}).get("Nats-Msg-Id", "without an id")] += 1

    async with connected(pair) as client:
        for subject in SUBJECTS:
            await client.subscribe(subject, cb=count)
        await barrier(client)
        yield seen


@contextmanager
def in_background(work: Callable[[], object]) -> Iterator[None]:
    """Do `work` in a thread while the body runs; what it raises is raised at the end."""
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(work)
        yield
        done.result()


def make_marks(side: Side, how_many: int) -> list[str]:
    """Publish as many marks; return the ids of their events."""
    return [side.make_mark(n) for n in range(how_many)]


class WarmStart:
    """Runs one of a pair's processes again and again, each time at once."""

    def __init__(self, service: Service, process: Process) -> None:
        self.process = process  # as which it is known; it is not started
        self.url = ""
        self._is_api = process is service.api
        # Uvicorn ends in order and then hands the signal on.
        self.good_statuses = (0, -signal.SIGTERM) if self._is_api else (0,)
        self._child: int | None = None
        with process.log_file.open("ab") as log:
            self._launcher = subprocess.Popen(
                [sys.executable, str(WARM_START)],
                cwd=service.folder,
                env={**service.environment, "PYTHONPATH": str(service.folder)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def wait_warm(self) -> None:
        answer = self._answer()
        assert answer == "warm", self.process.last_lines(10)

    def order(self, nats_url: str) -> None:
        """Have it start now."""
        port = str(free_port())
        self.url = f"http://127.0.0.1:{port}"
        arguments = ("uvicorn", "app.main:app", "--port", port) if self._is_api else ("app.worker",)
        environment = {"NATS_URLS": nats_url, "WORKER_PORT": port}
        assert self._launcher.stdin is not None
        order = {"arguments": arguments, "environment": environment}
        self._launcher.stdin.write(f"{json.dumps(order)}\n")
        self._launcher.stdin.flush()

    def wait_started(self) -> None:
        self._child = int(self._answer())

    def ask_to_stop(self) -> None:
        assert self._child is not None
        os.kill(self._child, signal.SIGTERM)

    def status(self) -> int:
        """Wait for the end; return the exit status."""
        status = int(self._answer())
        self._child = None
        return status

    def close(self) -> None:
        with suppress(ProcessLookupError):
            if self._child is not None:
                os.kill(self._child, signal.SIGKILL)
        self._launcher.kill()
        self._launcher.communicate()

    def _answer(self) -> str:
        assert self._launcher.stdout is not None
        return self._launcher.stdout.readline().strip()


@contextmanager
def warm_starts(pair: Pair) -> Iterator[list[WarmStart]]:
    """A `WarmStart` for each process of the pair, all ready to go."""
    made = [
        WarmStart(service, process) for service in pair.services for process in service.processes
    ]
    try:
        for start in made:
            start.wait_warm()
        yield made
    finally:
        for start in made:
            start.close()
