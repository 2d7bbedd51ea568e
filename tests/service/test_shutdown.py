"""A process ends in time after SIGTERM, whatever runs in it, and with status 0 in good order."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import nats
import pytest

from app.settings import ROOT
from jetstream_bridge.service.schema import migrate
from jetstream_bridge.service.shutdown import AFTER_GRACE
from jetstream_bridge.testing.server_processes import free_port
from jetstream_bridge.testing.servers import NatsServer
from tests.bridge.support import envelope
from tests.passage import Passage
from tests.processes import import_path
from tests.waiting import eventually

pytestmark = pytest.mark.real

GRACE = 1.0  # seconds
# With what a busy machine takes for its own part of it.
IN_TIME = GRACE + AFTER_GRACE + 8.0

# A worker with one handler, whose body is what the test is about.
WORKER = """
import asyncio, threading, time
from app.settings import Settings
from jetstream_bridge.service import shutdown
from jetstream_bridge.web import worker_process
shutdown.AFTER_GRACE = 2.0
from jetstream_bridge import Consumers, Event
from tests.processes import import_path
consumers = Consumers()

@consumers.on("order.changed")
async def stubborn(event: Event[dict[str, int]]) -> None:
    print("handling", flush=True)
{body}

worker_process.run_worker(Settings, lambda: consumers)
"""

HANGING = {
    "waits": "await asyncio.Event().wait()",
    "swallows its cancellation": """
while True:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        pass
""",
    "waits for a thread": "await asyncio.to_thread(threading.Event().wait)",
    "blocks the loop": "time.sleep(1000)",
}
IN_ORDER = {"waits"}

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def environment(sqlite_url: str, nats_server: NatsServer) -> dict[str, str]:
    migrate(ROOT, sqlite_url)
    return os.environ | {
        "PYTHONPATH": import_path(),
        "APP_NAME": "billing",
        "DESTINATION_APP": "orders",
        "NATS_ENV": "test",
        "DATABASE_URL": sqlite_url,
        "NATS_URLS": nats_server.url,
        "WORKER_PORT": str(free_port()),
        "SHUTDOWN_GRACE": f"{GRACE}s",
        "LOG_FORMAT": "json",
    }


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **settings: str) -> subprocess.Popen[str]:
        with (tmp_path / f"output-{len(processes)}").open("w") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=tmp_path,
                env=environment | settings,
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


def _output(folder: Path, number: int = 0) -> str:
    return (folder / f"output-{number}").read_text()


async def _ready(port: str | int) -> None:
    async with httpx.AsyncClient(timeout=3) as client:

        async def is_ready() -> bool:
            try:
                answer = await client.get(f"http://127.0.0.1:{port}/readyz")
            except httpx.TransportError:
                return False
            return bool(answer.json()["status"] == "ready")

        await eventually(is_ready, limit=40, what="readiness")


async def _ends(process: subprocess.Popen[str]) -> tuple[int, float]:
    """Send SIGTERM; return the status and the seconds until the end."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    status = await asyncio.to_thread(process.wait, 60)
    return status, time.monotonic() - began


@pytest.mark.parametrize("how", HANGING)
async def test_a_worker_ends_in_time_whatever_its_handler_does(
    start: Start, environment: dict[str, str], nats_server: NatsServer, tmp_path: Path, how: str
) -> None:
    body = "\n".join(f"    {line}" for line in HANGING[how].strip().splitlines())
    worker = start("-c", WORKER.format(body=body))
    await _ready(environment["WORKER_PORT"])
    client = await nats.connect(nats_server.url)
    await client.jetstream().publish("test.orders.sync.billing", envelope("e1", n=1).encode())
    await client.close()
    await eventually(lambda: "handling" in _output(tmp_path), limit=20)

    status, took = await _ends(worker)

    said = _output(tmp_path)
    assert took < IN_TIME, said
    assert status == (0 if how in IN_ORDER else 1), said
    if how not in IN_ORDER:
        assert "did not stop in time" in said
        named = '"threads": ["' if how == "waits for a thread" else "stubborn"
        assert named in said


@pytest.fixture
async def half_a_request(environment: dict[str, str]) -> AsyncIterator[Callable[[int], object]]:
    open_sockets: list[socket.socket] = []

    def begin(port: int) -> None:
        connection = socket.create_connection(("127.0.0.1", port), 5)
        head = "POST /customers HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        open_sockets.append(connection)

    yield begin
    for connection in open_sockets:
        connection.close()


async def test_an_api_ends_in_order_though_half_a_request_is_open(
    start: Start, tmp_path: Path, half_a_request: Callable[[int], object]
) -> None:
    port = free_port()
    api = start("-m", "uvicorn", "app.main:app", "--port", str(port))
    await _ready(port)
    half_a_request(port)
    async with httpx.AsyncClient() as client:  # so that the request before was seen
        await client.get(f"http://127.0.0.1:{port}/healthz")

    status, took = await _ends(api)

    assert took < IN_TIME, _output(tmp_path)
    assert status == 0, _output(tmp_path)


async def test_api_and_worker_end_in_order_while_the_database_says_nothing(
    start: Start, environment: dict[str, str], tmp_path: Path, postgres_url: str
) -> None:
    await asyncio.to_thread(migrate, ROOT, postgres_url)
    async with Passage(postgres_url) as passage:
        port = free_port()
        api = start("-m", "uvicorn", "app.main:app", "--port", str(port), DATABASE_URL=passage.url)
        worker = start("-m", "app.worker", DATABASE_URL=passage.url)
        await _ready(port)
        await _ready(environment["WORKER_PORT"])
        passage.freeze()
        ends = await asyncio.gather(_ends(api), _ends(worker))

    said = _output(tmp_path, 0) + _output(tmp_path, 1)
    assert [status for status, _ in ends] == [0, 0], said
    assert max(took for _, took in ends) < IN_TIME, said


async def test_workers_that_share_a_file_all_end_in_order(
    start: Start, nats_server: NatsServer, tmp_path: Path
) -> None:
    """One writes, the others wait for SQLite's lock, and all are told to stop."""
    body = "    await asyncio.sleep(0.05)"
    ports = [str(free_port()) for _ in range(3)]
    workers = [start("-c", WORKER.format(body=body), WORKER_PORT=port) for port in ports]
    await asyncio.gather(*(_ready(port) for port in ports))
    client = await nats.connect(nats_server.url)
    for number in range(200):
        event = envelope(f"e{number}", resource=str(number), n=number).encode()
        await client.jetstream().publish("test.orders.sync.billing", event)
    await client.close()
    await eventually(lambda: "handling" in _output(tmp_path, 0), limit=20)

    ends = await asyncio.gather(*(_ends(worker) for worker in workers))

    said = "".join(_output(tmp_path, number) for number in range(len(workers)))
    assert [status for status, _ in ends] == [0] * len(workers), said
    assert max(took for _, took in ends) < IN_TIME, said
