"""A worker in a process of its own, to be killed, frozen and cut off: `python -m` this module.

Its handler notes in `seen` that it ran, and waits for the payload's `seconds`. The row commits
with the handler's transaction, so `seen` is what took effect, in the order of the commits. An event
with `ends` ends the process: by a signal of that number, or with `os._exit` for 0.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import Bridge, Consumers, Event
from jetstream_bridge.service.database import create_engine
from jetstream_bridge.testing.server_processes import wait_until
from tests.bridge.support import config
from tests.processes import import_path
from tests.waiting import eventually

START_LIMIT = 30.0  # seconds for Python and its imports, on a machine that is busy


class Work(BaseModel):
    n: int
    seconds: float = 0.0
    ends: int | None = None


async def make_table(engine: AsyncEngine) -> None:
    key = "bigserial" if engine.dialect.name == "postgresql" else "integer"
    async with engine.begin() as connection:
        await connection.execute(
            text(f"CREATE TABLE seen (id {key} PRIMARY KEY, resource text, n int, worker text)")
        )


async def seen(engine: AsyncEngine) -> list[tuple[str, int, str]]:
    """What took effect: resource, number and worker, in the order of the handlers' inserts."""
    reader = engine.execution_options(sqlite_begin="AUTOCOMMIT")  # waits for no writer
    async with reader.connect() as connection:
        found = await connection.execute(text("SELECT resource, n, worker FROM seen ORDER BY id"))
        return [(row[0], row[1], row[2]) for row in found]


def by_resource(found: Iterable[tuple[str, int, str]]) -> dict[str, list[int]]:
    numbers: dict[str, list[int]] = {}
    for resource, n, _ in found:
        numbers.setdefault(resource, []).append(n)
    return numbers


class WorkerProcess:
    """One such process. `name` stands in `seen`; `changes` are settings of the bridge."""

    def __init__(self, name: str, database: str, nats: str, folder: Path, **changes: Any) -> None:
        self.name = name
        self.log_file = folder / f"{name}.log"
        self._ready = folder / f"{name}.ready"
        self._options = {
            "name": name,
            "database": database,
            "nats": nats,
            "ready": str(self._ready),
            "changes": changes,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> Self:
        self._ready.unlink(missing_ok=True)
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, json.dumps(self._options)],
                env={**os.environ, "PYTHONPATH": import_path()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        wait_until(self._ready.exists, limit=START_LIMIT, what=f"start of {self.name}")

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def freeze(self) -> None:
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        self._send(signal.SIGKILL)
        self._wait(5.0)

    def terminate(self, limit: float = 20.0) -> int:
        """Stop it in order; return its exit status."""
        self._send(signal.SIGTERM)
        return self._wait(limit)

    def close(self) -> None:
        if self.is_running:
            self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _wait(self, limit: float) -> int:
        assert self._process is not None
        return self._process.wait(limit)


def consumers(name: str) -> Consumers:
    made = Consumers()

    @made.on("order.changed")
    async def note(event: Event[Work], session: AsyncSession) -> None:
        connection = await session.connection()
        await connection.execute(
            text("INSERT INTO seen (resource, n, worker) VALUES (:resource, :n, :worker)"),
            {"resource": event.resource_id, "n": event.payload.n, "worker": name},
        )
        await asyncio.sleep(event.payload.seconds)
        if event.payload.ends is not None:
            _end_this_process(event.payload.ends)

    return made


def _end_this_process(how: int) -> None:
    if how == 0:
        os._exit(7)
    os.kill(os.getpid(), how)


async def work(options: Mapping[str, Any]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    engine = create_engine(options["database"], pool_size=20)
    sessions = async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)
    settings = config(options["nats"], app="billing", peer="orders", **options["changes"])
    async with Bridge(settings, sessions, consumers=consumers(options["name"])) as bridge:
        await eventually(
            lambda: stop.is_set() or bridge.checks()["consumers"].ok, limit=START_LIMIT
        )
        await asyncio.to_thread(Path(options["ready"]).touch)
        await stop.wait()
    await engine.dispose()


if __name__ == "__main__":
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s {os.getpid()} %(name)s %(message)s"
    )
    asyncio.run(work(json.loads(sys.argv[1])))
