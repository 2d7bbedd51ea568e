"""Two services, two APIs and two workers each, with a way of their own to every server.

They are one generated service under two names. `orders` shares its events among its workers;
`billing` has `WORKER_EXCLUSIVE`, so its effects come in order.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from chaos.processes import Forked, Warm
from chaos.proxy import Proxies, Proxy
from demo import asking
from demo.generating import clean_environment, generate
from demo.servers import NatsServer, PostgresServer, free_port

ENV = "chaos"
STREAM = f"{ENV}-jetstream-bridge-stream"
PEERS = {"orders": "billing", "billing": "orders"}
IN_ORDER = "billing"  # whose effects come in order
GRACE = 5.0  # seconds; SHUTDOWN_GRACE
OF_EACH_KIND = 2  # APIs, and workers, of one service

_PARTS = Path(__file__).with_name("parts")
_ADDED = {
    "app/routers/changes.py": _PARTS / "changes_router.py",
    "app/consumers/changes.py": _PARTS / "changes_consumer.py",
    "migrations/versions/0003_changes.py": _PARTS / "changes_migration.py",
}
_SETTINGS = {
    "NATS_ENV": ENV,
    "NATS_RETENTION": "limits",  # so that the stream's history can be read in the end
    "ACK_WAIT": "5s",
    "BACKOFF": "500ms,1s",
    "SHUTDOWN_GRACE": f"{GRACE}s",
    "PYTHONUNBUFFERED": "1",
    "LOG_FORMAT": "console",
}
_LIMIT = 60.0  # seconds


@dataclass(frozen=True)
class Member:
    """One process of a service, and its ways to the servers."""

    app: str
    kind: str  # `api` or `worker`
    process: Forked
    url: str
    nats: Proxy
    database: Proxy

    @property
    def name(self) -> str:
        return self.process.name

    @property
    def good_statuses(self) -> tuple[int, ...]:
        """How it ends when it is told to; uvicorn hands the signal on at its end."""
        return (0, -15) if self.kind == "api" else (0,)

    def readiness(self) -> str:
        """What it says about its readiness; empty when it is ready."""
        try:
            answer = asking.get(f"{self.url}/readyz")
        except httpx.TransportError as error:
            return f"no answer: {error!r}"
        return "" if answer.status_code == 200 else answer.text


class Town:
    """All of it. `running` starts it and takes it down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nats = NatsServer(store=folder / "nats")
        self.nats.log_file = folder / "nats-server.log"
        self.postgres = PostgresServer()
        self.members: dict[str, Member] = {}

    def of(self, app: str, kind: str) -> list[Member]:
        return [m for m in self.members.values() if (m.app, m.kind) == (app, kind)]

    def database_url(self, app: str) -> str:
        """The way past all proxies."""
        return self.postgres.url(app)

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as stack, ThreadPoolExecutor() as threads:
            service = threads.submit(self._generate)
            stack.enter_context(self.nats)
            stack.enter_context(self.postgres)
            proxies = stack.enter_context(Proxies())
            self._create_databases(service.result())
            self._warm = Warm(service.result(), clean_environment({}), self.folder / "warm.log")
            stack.callback(self._warm.close)
            self._warm.wait()
            for app in PEERS:
                self._place(app, proxies, stack)
            for member in self.members.values():
                member.process.start()
            yield

    def _create_databases(self, service: Path) -> None:
        first, second = PEERS
        self.postgres.create_database(first)
        self._migrate(first, service)
        self.postgres.run(f"CREATE DATABASE {second} TEMPLATE {first}")

    def _generate(self) -> Path:
        return generate(self.folder, name="town", peer="peer", database="postgresql", parts=_ADDED)

    def _place(self, app: str, proxies: Proxies, stack: ExitStack) -> None:
        for kind in ("api", "worker"):
            for number in range(1, OF_EACH_KIND + 1):
                member = self._member(app, kind, f"{app}-{kind}-{number}", proxies)
                stack.callback(member.process.close)
                self.members[member.name] = member

    def _member(self, app: str, kind: str, name: str, proxies: Proxies) -> Member:
        nats = proxies.to_port(self.nats.port)
        database = proxies.to_socket(str(self.postgres.folder / ".s.PGSQL.5432"))
        port = str(free_port())
        url = f"postgresql+asyncpg://postgres@127.0.0.1:{database.port}/{app}"
        of_its_own = {"NATS_URLS": f"nats://127.0.0.1:{nats.port}", "DATABASE_URL": url}
        arguments = ("uvicorn", "app.main:app", "--port", port, "--no-access-log")
        process = Forked(
            name,
            arguments if kind == "api" else ("app.worker",),
            warm=self._warm,
            environment=self._environment(app) | of_its_own | {"WORKER_PORT": port},
            folder=self.folder,
        )
        return Member(app, kind, process, f"http://127.0.0.1:{port}", nats, database)

    def _environment(self, app: str) -> dict[str, str]:
        return clean_environment(
            {
                **_SETTINGS,
                "APP_NAME": app,
                "DESTINATION_APP": PEERS[app],
                "DATABASE_URL": self.database_url(app),
                "WORKER_EXCLUSIVE": str(app == IN_ORDER).lower(),
            }
        )

    def _migrate(self, app: str, service: Path) -> None:
        subprocess.run(
            [sys.executable, "-m", "alembic", "upgrade", "heads"],
            cwd=service,
            env=self._environment(app),
            check=True,
            capture_output=True,
            timeout=_LIMIT,
        )
