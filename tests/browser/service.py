"""A whole service for a browser: nats-server, a database, the API and a worker as processes."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import nats

from app.settings import ROOT, Settings
from jetstream_bridge.service.schema import migrate
from jetstream_bridge.testing.server_processes import free_port, wait_until
from jetstream_bridge.testing.servers import NatsServer
from tests.processes import import_path

TOKEN = "a-token-for-the-browser"
INCOMING = "production.billing.sync.orders"
OUTGOING = "production.orders.sync.billing"
_START_LIMIT = 60.0  # seconds; a loaded machine needs several
_STOP_LIMIT = 20.0  # seconds


class Service:
    """One running service. What it was told is lost with its folder."""

    def __init__(self, folder: Path, server: NatsServer, *, use_dlq: bool = True) -> None:
        self.folder = folder
        self.server = server
        self.port = free_port()
        self.worker_port = free_port()
        self._file = folder / "service.sqlite3"
        self._depots = folder / "depots.txt"
        self._depots.write_text("north south\n")
        self._settings = {
            "SERVICE_NAME": "Orders Service",
            "APP_NAME": "orders",
            "DESTINATION_APP": "billing",
            "NATS_ENV": "production",
            "DATABASE_URL": f"sqlite+aiosqlite:///{self._file}",
            "NATS_URLS": server.url,
            "WORKER_PORT": str(self.worker_port),
            "ADMIN_TOKEN": TOKEN,
            "USE_DLQ": str(use_dlq).lower(),
            "DEPOTS": str(self._depots),
            "PYTHONPATH": import_path(),
            "SHUTDOWN_GRACE": "2s",
        }
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the processes and return when both are ready."""
        migrate(ROOT, self._settings["DATABASE_URL"])
        port = str(self.port)
        self._run("api", "uvicorn", "app.main:app", "--host", "127.0.0.1", "--port", port)
        self._run("worker", "tests.browser.worker")
        for port_of_one in (self.port, self.worker_port):
            wait_until(_ready(port_of_one), limit=_START_LIMIT, what=f"start; see {self.folder}")

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(_STOP_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(_STOP_LIMIT)

    def know_depot(self, name: str) -> None:
        """Mend what made events fail."""
        self._depots.write_text(f"{self._depots.read_text()} {name}\n")

    async def receive(self, event_type: str, **payload: object) -> str:
        """Have the peer publish an event; return its id."""
        event_id = str(uuid.uuid4())
        await self.receive_bytes(_envelope(event_id, event_type, payload))
        return event_id

    async def receive_bytes(self, body: bytes) -> None:
        client = await nats.connect(self.server.url)
        try:
            await client.jetstream().publish(INCOMING, body)
        finally:
            await client.close()

    def write(self, event_type: str, *, status: str = "pending", **payload: object) -> str:
        """Put an event into the outbox in some state; return its id."""
        event_id = str(uuid.uuid4())
        row = {
            "event_id": event_id,
            "subject": OUTGOING,
            "payload": _envelope(event_id, event_type, payload).decode(),
            "status": status,
            "attempts": 10 if status == "failed" else 0,
            "last_error": "message size exceeds maximum allowed" if status == "failed" else None,
        }
        names = ", ".join(row)
        values = ", ".join(f":{name}" for name in row)
        with contextlib.closing(sqlite3.connect(self._file, timeout=10)) as database, database:
            database.execute(
                f"INSERT INTO jetstream_outbox_events ({names}) VALUES ({values})", row
            )
        return event_id

    async def letters(self) -> list[dict[str, Any]]:
        """The dead letters, as the API tells them."""
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers) as client:
            items: list[dict[str, Any]] = (await client.get("/admin/dlq")).json()["items"]
            return items

    async def inbox_status(self, event_id: str) -> str | None:
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers) as client:
            found = (await client.get("/admin/inbox", params={"event_id": event_id})).json()
            return found["items"][0]["status"] if found["items"] else None

    def _run(self, name: str, *module: str) -> None:
        outside = {
            key: value
            for key, value in os.environ.items()
            if key.lower() not in Settings.model_fields
        }
        with (self.folder / f"{name}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", *module],
                    cwd=self.folder,  # where no .env of this machine is
                    env=outside | self._settings,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )


@contextlib.contextmanager
def running_service(folder: Path, *, use_dlq: bool = True) -> Iterator[Service]:
    with NatsServer() as server:
        service = Service(folder, server, use_dlq=use_dlq)
        try:
            service.start()
            yield service
        finally:
            service.stop()


def _ready(port: int) -> Callable[[], bool]:
    def ready() -> bool:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(f"http://127.0.0.1:{port}/readyz").json()
            return bool(answer["status"] == "ready")
        return False

    return ready


def _envelope(event_id: str, event_type: str, payload: dict[str, object]) -> bytes:
    resource_type, _, _ = event_type.partition(".")
    envelope = {
        "event_id": event_id,
        "schema_version": 1,
        "event_type": event_type,
        "producer": "billing",
        "resource_type": resource_type,
        "resource_id": str(payload.get("id", event_id[:8])),
        "occurred_at": "2026-01-02T03:04:05Z",
        "trace_id": uuid.uuid4().hex,
        "payload": payload,
    }
    return json.dumps(envelope).encode()
