"""Two services that are each other's destination, on servers of their own.

Whatever is started here is stopped here, by its process, also when the body of the `with` fails.
What ends by itself is noticed by every wait, so nothing waits for the dead.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import httpx

from demo import asking
from demo.generating import MARKS, clean_environment, generate
from demo.processes import Process
from demo.servers import NatsServer, PostgresServer, free_port

DatabaseKind = Literal["sqlite", "postgresql"]
ENV = "demo"
STREAM = f"{ENV}-jetstream-bridge-stream"

_START_LIMIT = 60.0  # seconds; a busy machine needs several
_STOP_LIMIT = 30.0  # seconds; a service ends itself by force before
_MIGRATE_LIMIT = 60.0  # seconds
_PAUSE = 0.05  # seconds between two looks, which take time from what they wait for


class FailedError(Exception):
    """Something ended that should run, or did not come about in time."""

    def __init__(self, what: str, *, process: Process | None = None) -> None:
        super().__init__(what)
        self.process = process


@dataclass(frozen=True)
class Service:
    """One generated service: its API, which relays its outbox too, and its worker."""

    name: str
    peer: str
    folder: Path
    database_url: str
    url: str
    worker_url: str
    environment: Mapping[str, str]
    api: Process
    worker: Process

    @property
    def processes(self) -> tuple[Process, Process]:
        return (self.api, self.worker)


@dataclass(frozen=True)
class Stream:
    """A stream as nats-server itself reports it."""

    name: str
    subjects: frozenset[str]
    messages: int  # not acknowledged yet
    stored: int  # ever
    in_hand: dict[str, int]  # by the name of the consumer: delivered, and not acknowledged yet


def streams(monitor_url: str) -> list[Stream]:
    """All streams of the server whose monitoring answers at `monitor_url`."""
    answer = asking.get(f"{monitor_url}/jsz", consumers="true", config="true").json()
    return [
        Stream(
            name=found["name"],
            subjects=frozenset(found["config"]["subjects"]),
            messages=found["state"]["messages"],
            stored=found["state"]["last_seq"],
            in_hand={c["name"]: c["num_ack_pending"] for c in found.get("consumer_detail") or []},
        )
        for account in answer.get("account_details") or []
        for found in account.get("stream_detail") or []
    ]


class Pair:
    """`orders` and `billing`, one nats-server and, if wanted, one PostgreSQL.

    `settings` are added to the environment of all processes; `parts` are files that are added to
    both services, by their place in them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        database: DatabaseKind = "sqlite",
        settings: Mapping[str, str] | None = None,
        parts: Mapping[str, Path] = MARKS,
    ) -> None:
        self.folder = folder
        self.database = database
        self.settings = dict(settings or {})
        self._parts = parts
        self.monitor_url = f"http://127.0.0.1:{free_port()}"
        self.nats = NatsServer(
            store=folder / "nats", config=f"http: {self.monitor_url.removeprefix('http://')}"
        )
        self.nats.log_file = folder / "nats-server.log"
        self.postgres = PostgresServer() if database == "postgresql" else None
        self._services: tuple[Service, ...] = ()
        self._nats_wanted = False

    @property
    def services(self) -> tuple[Service, Service]:
        orders, billing = self._services
        return orders, billing

    @property
    def processes(self) -> Iterator[Process]:
        return (process for service in self._services for process in service.processes)

    def generate(self) -> None:
        """Generate both services, side by side."""
        with ThreadPoolExecutor() as threads:
            orders = threads.submit(self._generate, "orders", "billing")
            billing = threads.submit(self._generate, "billing", "orders")
        self._services = (orders.result(), billing.result())

    def start_servers(self) -> None:
        self.start_nats()
        if self.postgres is not None:
            self.postgres.start()
            for service in self.services:
                self.postgres.create_database(service.name)

    def migrate(self) -> None:
        """Bring both databases to the newest version of their tables."""
        migrations = [self._migration(service).start() for service in self.services]
        try:
            self.wait_until(
                lambda: all(not migration.is_running for migration in migrations),
                what="the end of the migrations",
                limit=_MIGRATE_LIMIT,
            )
            for migration in migrations:
                if migration.status != 0:
                    raise FailedError(f"{migration.name} failed", process=migration)
        finally:
            for migration in migrations:
                migration.kill()

    def start_services(self) -> None:
        """Start what does not run of both services, and return when all of it is ready."""
        for process in self.processes:
            if not process.is_running:
                process.start()
        for service in self.services:
            self.wait_ready(service.url, service.api)
            self.wait_ready(service.worker_url, service.worker)

    def start_nats(self) -> None:
        self.nats.start()
        self._nats_wanted = True

    def stop_nats(self) -> None:
        self._nats_wanted = False
        self.nats.terminate()

    def wait_ready(self, url: str, process: Process, *, limit: float = _START_LIMIT) -> None:
        """Return when `/readyz` says so; raise with what it says instead after `limit` seconds."""
        answer = "no answer"

        def ready() -> bool:
            nonlocal answer
            with suppress(httpx.TransportError):
                response = asking.get(f"{url}/readyz")
                answer = response.text
                return bool(response.json()["status"] == "ready")
            return False

        try:
            self.wait_until(ready, what=f"readiness of {process.name}", limit=limit)
        except TimeoutError as error:
            raise FailedError(f"{error}; /readyz: {answer}", process=process) from None

    def wait_until(
        self, condition: Callable[[], object], *, what: str, limit: float, pause: float = _PAUSE
    ) -> None:
        """Return as soon as `condition()` holds, looking every `pause` seconds.

        Raises `TimeoutError` that names `what` after `limit` seconds, and `FailedError` when
        something has ended that should run.
        """
        deadline = time.monotonic() + limit
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not come about within {limit:g} s")
            time.sleep(pause)

    def check(self) -> None:
        """Raise `FailedError` if something has ended that should run."""
        for process in self.processes:
            if process.status is not None:
                raise FailedError(
                    f"{process.name} ended by itself with status {process.status}", process=process
                )
        if self._nats_wanted and not self.nats.is_running:
            raise FailedError(f"nats-server ended by itself; its log is {self.nats.log_file}")
        if self.postgres is not None and self._nats_wanted and not self.postgres.is_running:
            raise FailedError(f"PostgreSQL ended by itself; its log is {self.postgres.log_file}")

    def stream(self) -> Stream:
        """The one stream that both services share."""
        [stream] = streams(self.monitor_url)
        return stream

    def in_hand(self, service: Service) -> int:
        """How many events the service's worker has been given and has not acknowledged."""
        return self.stream().in_hand[f"{ENV}-{service.name}-workers"]

    def stop(self) -> None:
        """Stop all of it, in the reverse order of its start."""
        for process in reversed(list(self.processes)):
            process.stop(grace=_STOP_LIMIT)
        self._nats_wanted = False
        self.nats.close()
        if self.postgres is not None:
            self.postgres.close()

    def send_kill(self) -> None:
        """End both services at once; `stop` then has little to wait for."""
        for process in self.processes:
            process.send_kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _generate(self, name: str, peer: str) -> Service:
        folder = generate(
            self.folder, name=name, peer=peer, database=self.database, parts=self._parts
        )
        database_url = f"sqlite+aiosqlite:///{folder / f'{name}.db'}"
        if self.postgres is not None:
            database_url = self.postgres.url(name)
        port, worker_port = free_port(), free_port()
        environment = self._environment(database_url, worker_port)
        api = [
            *("uvicorn", "app.main:app", "--host", "127.0.0.1", "--port", str(port)),
            "--no-access-log",
        ]

        def process(kind: str, *arguments: str) -> Process:
            return Process(
                f"{name} {kind}",
                [sys.executable, "-m", *arguments],
                folder=folder,
                environment=environment,
                log_file=self.folder / f"{name}-{kind}.log",
            )

        return Service(
            name=name,
            peer=peer,
            folder=folder,
            database_url=database_url,
            url=f"http://127.0.0.1:{port}",
            worker_url=f"http://127.0.0.1:{worker_port}",
            environment=environment,
            api=process("api", *api),
            worker=process("worker", "app.worker"),
        )

    def _environment(self, database_url: str, worker_port: int) -> dict[str, str]:
        return clean_environment(
            {
                "PYTHONUNBUFFERED": "1",
                "DATABASE_URL": database_url,
                "NATS_ENV": ENV,
                "NATS_URLS": self.nats.url,
                "WORKER_PORT": str(worker_port),
                "LOG_FORMAT": "console",
                **self.settings,
            }
        )

    def _migration(self, service: Service) -> Process:
        return Process(
            f"migration of {service.name}",
            [sys.executable, "-m", "alembic", "upgrade", "heads"],
            folder=service.folder,
            environment=service.environment,
            log_file=self.folder / f"{service.name}-migration.log",
        )


def remove(folder: Path) -> None:
    """Remove a pair's folder, and the one around it if that is empty then."""
    shutil.rmtree(folder)
    with suppress(OSError):
        folder.parent.rmdir()
