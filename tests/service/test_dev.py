"""`make run`: all of the service on one terminal, anew after each edit, and nothing left of it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from jetstream_bridge.service.ports import PortTakenError, port_is_free, take_port
from jetstream_bridge.testing import server_processes
from jetstream_bridge.testing.servers import NatsServer
from tests.service.dev_runs import LIMIT, Machine, Run, Service

pytestmark = pytest.mark.timeout(6 * LIMIT)
_READY = "dev      |   stop      Ctrl-C"  # the last line of what it says when all is ready


class _Ports:
    """Ports that nobody uses."""

    def __init__(self) -> None:
        self.api = server_processes.free_port()
        self.worker = server_processes.free_port()


@pytest.fixture
def ports() -> _Ports:
    return _Ports()


@pytest.fixture
def service(nats_server: NatsServer, tmp_path: Path, ports: _Ports) -> Iterator[Service]:
    """On SQLite and on a NATS that is there, so that no local server is needed."""
    machine = Machine(tmp_path)
    service = machine.service("orders", "billing", postgres=False)
    service.environment["NATS_URLS"] = nats_server.url
    service.environment["WORKER_PORT"] = str(ports.worker)
    yield service
    machine.stop()


def _run(service: Service, ports: _Ports, *arguments: str) -> Run:
    return service.run("--port", str(ports.api), *arguments)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_one_signal_stops_everything_in_order(
    service: Service, ports: _Ports, number: signal.Signals, nats_server: NatsServer
) -> None:
    address = f"http://127.0.0.1:{ports.api}"
    run = _run(service, ports)
    await run.says("dev      |   stop ")
    assert f"API       {address}   its documentation: {address}/docs" in run.text
    assert f"console   {address}/admin   set ADMIN_TOKEN in .env to open it" in run.text
    assert f"worker    http://127.0.0.1:{ports.worker}/readyz" in run.text
    assert f"NATS      {nats_server.url}" in run.text
    assert "database  sqlite+aiosqlite:///" in run.text
    async with httpx.AsyncClient(base_url=address) as client:
        assert (await client.get("/readyz")).json()["status"] == "ready"
        assert (await client.get("/docs")).status_code == 200

    assert await run.end(number) == 0

    assert "Traceback" not in run.text
    assert run.text.index("worker stopped") < run.text.index("Application shutdown complete")
    assert port_is_free(ports.api)
    assert port_is_free(ports.worker)


async def test_an_edit_starts_api_and_worker_anew_on_their_ports(
    service: Service, ports: _Ports
) -> None:
    run = _run(service, ports)
    await run.says(_READY)
    before = {name: run.pid(name) for name in ("api", "worker")}

    router = service.folder / "app" / "routers" / "hello.py"
    router.write_text(
        "from fastapi import APIRouter\n"
        "router = APIRouter()\n"
        "@router.get('/hello')\n"
        "async def hello() -> str: return 'hello'\n"
    )

    await run.says("app/routers/hello.py changed; starting API and worker anew")
    await run.says("dev      | ready again after")
    assert before.keys() == {name for name, pid in before.items() if run.pid(name) != pid}
    async with httpx.AsyncClient(base_url=run.api) as client:
        assert (await client.get("/hello")).json() == "hello"


async def test_a_mistake_waits_for_its_correction(service: Service, ports: _Ports) -> None:
    run = _run(service, ports)
    await run.says(_READY)
    main = service.folder / "app" / "consumers" / "customers.py"
    right = main.read_text()

    main.write_text("this is no Python")
    await run.says("ended with status 2; it starts anew at the next edit")
    main.write_text(right)

    await run.says("dev      | ready again after")
    assert run.process.poll() is None


async def test_a_setting_in_env_is_an_edit(service: Service, ports: _Ports) -> None:
    run = _run(service, ports)
    await run.says(_READY)

    (service.folder / ".env").write_text("ADMIN_TOKEN=a-long-token-of-somebody\n")

    await run.says(".env changed; starting API and worker anew")
    await run.says("dev      | ready again after")
    async with httpx.AsyncClient(base_url=run.api) as client:
        assert (await client.get("/admin/outbox/stats")).status_code == 401


async def test_without_reload_a_process_that_dies_takes_the_rest_down_and_is_named(
    service: Service, ports: _Ports
) -> None:
    run = _run(service, ports, "--no-reload")
    await run.says(_READY)
    os.kill(run.pid("worker"), signal.SIGKILL)

    assert await asyncio.to_thread(run.process.wait, LIMIT) == 1

    assert "worker ended with status -9; stopping the rest" in run.text
    assert "Application shutdown complete" in run.text
    assert port_is_free(ports.api)


async def test_what_cannot_start_ends_the_run(service: Service, ports: _Ports) -> None:
    (service.folder / "app" / "consumers" / "broken.py").write_text("this is no Python")
    run = _run(service, ports)

    assert await asyncio.to_thread(run.process.wait, LIMIT) == 1
    assert "app/consumers/broken.py cannot be imported: SyntaxError" in run.text
    assert "ended with status 2; stopping the rest" in run.text


async def test_what_is_waited_for_is_said(
    service: Service, ports: _Ports, nats_server: NatsServer
) -> None:
    run = _run(service, ports)
    await run.says("migrating the database")
    nats_server.terminate()
    try:
        await run.says(f"API at http://127.0.0.1:{ports.api} is not ready yet: nats: ")
    finally:
        nats_server.start()
    await run.says(_READY)


async def test_a_signal_during_the_start_stops_it(service: Service, ports: _Ports) -> None:
    run = _run(service, ports)
    await run.says("migrating the database")

    assert await run.end(signal.SIGINT) == 0
    assert "Traceback" not in run.text


def test_a_port_in_use_is_said_before_anything_starts(service: Service) -> None:
    with socket.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]
        run = service.run("--port", str(port))
        assert run.process.wait(LIMIT) == 2

    assert run.text == f"--port: {port} is in use; stop the other process, or choose another port\n"


def test_a_port_is_taken_at_once_and_the_next_one_looked_for() -> None:
    first = server_processes.free_port()
    with (
        take_port("--port", None, default=first) as one,
        take_port("--port", None, default=first) as other,
    ):
        ports = [taken.getsockname()[1] for taken in (one, other)]
        assert ports[0] >= first
        assert ports[1] > ports[0]
        with pytest.raises(PortTakenError, match=f"^WORKER_PORT: {ports[0]} is in use; stop the "):
            take_port("WORKER_PORT", ports[0], default=8001)
