"""The worker as the operating system sees it: its port, its signals, its exit status."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from app.settings import ROOT
from jetstream_bridge.service.schema import migrate
from jetstream_bridge.testing.server_processes import free_port
from jetstream_bridge.testing.servers import NatsServer
from tests.processes import import_path
from tests.service.conftest import NOWHERE
from tests.waiting import eventually

# Processes start and stop; a busy machine needs longer than usual for it.
pytestmark = pytest.mark.real

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def environment(sqlite_url: str) -> dict[str, str]:
    migrate(ROOT, sqlite_url)
    return os.environ | {
        "PYTHONPATH": import_path(),
        "APP_NAME": "orders",
        "DESTINATION_APP": "billing",
        "DATABASE_URL": sqlite_url,
        "NATS_URLS": NOWHERE,
        "WORKER_PORT": str(free_port()),
        "SHUTDOWN_GRACE": "5s",
    }


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Start a Python module of the service as a process; it is gone after the test.

    In another folder, so that the `.env` of this machine plays no part.
    """
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **settings: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=tmp_path,
            env=environment | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
async def probes(environment: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    address = f"http://127.0.0.1:{environment['WORKER_PORT']}"
    async with httpx.AsyncClient(base_url=address, timeout=5) as client:
        yield client


async def _answers(client: httpx.AsyncClient, path: str, status: int = 200) -> None:
    async def answers() -> bool:
        try:
            return (await client.get(path)).status_code == status
        except httpx.TransportError:
            return False

    await eventually(answers, limit=30, what=f"{path} with {status}")


async def _end(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    process.send_signal(number)
    output, _ = await asyncio.to_thread(process.communicate, None, 20)
    return process.returncode, output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_worker_with_status_0(
    start: Start, probes: httpx.AsyncClient, nats_server: NatsServer, number: signal.Signals
) -> None:
    worker = start("app.worker", NATS_URLS=nats_server.url)
    await _answers(probes, "/readyz")

    status, output = await _end(worker, number)

    assert (status, "Traceback" in output) == (0, False), output
    assert "worker stopped" in output


async def test_the_worker_starts_and_ends_without_nats(
    start: Start, probes: httpx.AsyncClient
) -> None:
    worker = start("app.worker")
    await _answers(probes, "/healthz")
    await _answers(probes, "/readyz", 503)
    checks = (await probes.get("/readyz")).json()["checks"]
    metrics = await probes.get("/metrics")

    status, output = await _end(worker, signal.SIGTERM)

    assert status == 0, output
    assert set(checks) == {"database", "migrations", "tasks", "nats", "stream", "consumers"}
    assert metrics.status_code == 200
    assert "\nbridge_consumer_lag " in metrics.text


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
async def test_the_worker_s_probes_answer_on_ipv6_and_to_head(
    start: Start, probes: httpx.AsyncClient, environment: dict[str, str]
) -> None:
    worker = start("app.worker")
    await _answers(probes, "/healthz")
    async with httpx.AsyncClient() as client:
        response = await client.head(f"http://[::1]:{environment['WORKER_PORT']}/healthz")
    assert response.status_code == 200

    status, output = await _end(worker, signal.SIGTERM)
    assert status == 0, output


async def test_a_port_in_use_is_a_bad_setting(start: Start, environment: dict[str, str]) -> None:
    with closing(socket.create_server(("", int(environment["WORKER_PORT"])))):
        worker = start("app.worker")
        output, _ = await asyncio.to_thread(worker.communicate, None, 30)

    assert worker.returncode == 2
    assert output == (
        f"WORKER_PORT: {environment['WORKER_PORT']} is in use; "
        "stop the other process, or write another port\n"
    )


@pytest.mark.parametrize("arguments", [("app.worker",), ("uvicorn", "app.main:app")])
async def test_bad_settings_are_lines_and_no_traceback(
    start: Start, arguments: tuple[str, ...]
) -> None:
    process = start(*arguments, MAX_DELIVER="0", ACK_WAIT="soon")
    output, _ = await asyncio.to_thread(process.communicate, None, 30)

    assert process.returncode == 2
    assert [line.partition(":")[0] for line in output.splitlines()] == ["MAX_DELIVER", "ACK_WAIT"]


async def test_the_api_ends_in_order(start: Start, environment: dict[str, str]) -> None:
    port = free_port()
    api = start("uvicorn", "app.main:app", "--port", str(port))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await _answers(client, "/healthz")

    status, output = await _end(api, signal.SIGTERM)

    assert "Application shutdown complete" in output
    assert "Traceback" not in output
    assert status in (0, -signal.SIGTERM), "uvicorn hands the signal on when it has finished"
