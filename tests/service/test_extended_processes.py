"""A resource in a process of its own: its exit status, and its end after the handlers'."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import nats
import pytest

from app.settings import ROOT
from jetstream_bridge.service.schema import migrate
from jetstream_bridge.testing.server_processes import free_port
from jetstream_bridge.testing.servers import NatsServer
from tests.bridge.support import envelope
from tests.processes import import_path
from tests.service.conftest import NOWHERE
from tests.waiting import eventually

pytestmark = pytest.mark.real

WORKER = ("tests.service.extended",)
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(sqlite_url: str, tmp_path: Path) -> Iterator[Start]:
    """Start a module as a process; what it writes is in `output.txt`, and it is gone afterwards."""
    migrate(ROOT, sqlite_url)
    given = {
        "PYTHONPATH": import_path(),
        "APP_NAME": "orders",
        "DESTINATION_APP": "billing",
        "NATS_ENV": "test",
        "DATABASE_URL": sqlite_url,
        "NATS_URLS": NOWHERE,
        "WORKER_PORT": str(free_port()),
        "SHUTDOWN_GRACE": "5s",
    }
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **settings: str) -> subprocess.Popen[str]:
        with (tmp_path / "output.txt").open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=tmp_path,
                env=os.environ | given | settings,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def output(tmp_path: Path) -> Callable[[], str]:
    return (tmp_path / "output.txt").read_text


async def _says(output: Callable[[], str], text: str) -> None:
    await eventually(lambda: text in output(), limit=30, what=text)


async def _ended(process: subprocess.Popen[str]) -> int:
    return await asyncio.to_thread(process.wait, 30)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (WORKER, 1),
        (("uvicorn", "--factory", "tests.service.extended:make_app", "--port", "0"), 3),
    ],
)
async def test_a_resource_that_does_not_open_ends_the_process_with_its_name(
    start: Start, output: Callable[[], str], command: tuple[str, ...], status: int
) -> None:
    assert await _ended(start(*command, RESOURCE="broken")) == status, output()
    said = "resource client cannot be opened: OSError: billing refuses"
    assert command != WORKER or "Traceback" not in output()
    assert any(said in line and '"level": "critical"' in line for line in output().splitlines())


async def test_a_signal_ends_a_worker_whose_resource_hangs(
    start: Start, output: Callable[[], str]
) -> None:
    worker = start(*WORKER, RESOURCE="hanging")
    await _says(output, "resource opens")
    worker.send_signal(signal.SIGTERM)
    assert await _ended(worker) == 0, output()
    assert "Traceback" not in output()


async def test_a_resource_is_closed_after_the_handler_that_a_signal_found(
    start: Start, output: Callable[[], str], nats_server: NatsServer
) -> None:
    worker = start(*WORKER, RESOURCE="fine", NATS_URLS=nats_server.url)
    await _says(output, "worker started")
    connection = await nats.connect(nats_server.url)
    stream = connection.jetstream()

    async def stored() -> bool:
        try:
            await stream.publish("test.billing.sync.orders", envelope("e1").encode())
        except Exception:  # the worker has not made the stream yet
            return False
        return True

    await eventually(stored, limit=30)
    await _says(output, "handler began")
    worker.send_signal(signal.SIGTERM)
    assert await _ended(worker) == 0, output()
    text = output()
    assert text.index("handler ended") < text.index("resource closed")
    await connection.close()


async def test_the_worker_shows_the_services_checks(
    start: Start, output: Callable[[], str]
) -> None:
    port = free_port()
    start(*WORKER, RESOURCE="fine", WORKER_PORT=str(port))
    await _says(output, "worker started")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5) as client:

        async def ready() -> dict[str, object]:
            try:
                found: dict[str, object] = (await client.get("/readyz")).json()["checks"]
            except httpx.TransportError:
                return {}
            return found

        await eventually(ready, limit=30)
        assert (await ready())["billing"] == {"ok": False, "detail": "billing is slow"}
