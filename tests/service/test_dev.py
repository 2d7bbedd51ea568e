"""`make run`: all of the service on one terminal, and nothing of it left afterwards."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from jetstream_bridge.service import local_servers
from jetstream_bridge.service.child_processes import Children, Terminal
from jetstream_bridge.service.database import create_engine
from jetstream_bridge.service.local_servers import (
    create_database,
    free_port,
    is_local_postgres,
    nats_answers,
    port_is_free,
    postgres_answers,
    start_nats,
    start_postgres,
)
from jetstream_bridge.testing import server_processes
from jetstream_bridge.testing.servers import NatsServer
from tests.processes import import_path
from tests.waiting import eventually

# Several processes start and stop in one test; a busy machine needs longer than usual for it.


class _Run:
    """One `python -m app.dev`, with what it has printed so far."""

    def __init__(self, environment: dict[str, str], output: Path) -> None:
        self.api_port = server_processes.free_port()
        self.worker_port = server_processes.free_port()
        self._output = output
        with output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app.dev", "--port", str(self.api_port)],
                cwd=output.parent,  # where there is no `.env`
                env=environment | {"WORKER_PORT": str(self.worker_port)},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self._output.read_text(errors="replace")

    async def says(self, line: str) -> None:
        await eventually(lambda: line in self.text, limit=40, what=f"{line!r} in\n{self.text}\n")

    def pid(self, name: str) -> int:
        found = re.search(rf"^{name} +\| started as process (\d+)$", self.text, re.MULTILINE)
        assert found, self.text
        return int(found[1])

    async def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, 40)


@pytest.fixture
def run(sqlite_url: str, nats_server: NatsServer, tmp_path: Path) -> Iterator[_Run]:
    environment = os.environ | {
        "PYTHONPATH": import_path(),
        "APP_NAME": "orders",
        "DESTINATION_APP": "billing",
        "DATABASE_URL": sqlite_url,
        "NATS_URLS": nats_server.url,
        "SHUTDOWN_GRACE": "5s",
    }
    run = _Run(environment, tmp_path / "output")
    yield run
    if run.process.poll() is None:
        run.process.send_signal(signal.SIGINT)
        run.process.send_signal(signal.SIGINT)
        run.process.wait(20)


@pytest.fixture
async def children() -> AsyncIterator[Children]:
    children = Children(Terminal())
    yield children
    await children.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_one_signal_stops_everything_in_order(run: _Run, number: signal.Signals) -> None:
    address = f"http://127.0.0.1:{run.api_port}"
    await run.says(f"dev      | ready: API {address}, its documentation {address}/docs")
    await run.says(f"console {address}/admin (set ADMIN_TOKEN to open it)")
    await run.says(f"worker http://127.0.0.1:{run.worker_port}/readyz")
    await run.says("NATS as NATS_URLS says, database sqlite+aiosqlite:///")
    async with httpx.AsyncClient(base_url=address) as client:
        assert (await client.get("/readyz")).json()["status"] == "ready"
        assert (await client.get("/docs")).status_code == 200

    assert await run.end(number) == 0

    assert "Traceback" not in run.text
    assert run.text.index("worker stopped") < run.text.index("Application shutdown complete")
    assert port_is_free(run.api_port)
    assert port_is_free(run.worker_port)


async def test_a_process_that_dies_takes_the_rest_down_and_is_named(run: _Run) -> None:
    await run.says("dev      | ready: API")
    os.kill(run.pid("worker"), signal.SIGKILL)

    assert await asyncio.to_thread(run.process.wait, 40) == 1

    assert "worker ended with status -9; stopping the rest" in run.text
    assert "Application shutdown complete" in run.text
    assert port_is_free(run.api_port)


async def test_what_is_waited_for_is_said(run: _Run, nats_server: NatsServer) -> None:
    await run.says("migrating the database")
    nats_server.terminate()
    try:
        await run.says(f"API at http://127.0.0.1:{run.api_port} is not ready yet: nats: ")
    finally:
        nats_server.start()
    await run.says("dev      | ready: API")


async def test_a_signal_during_the_start_stops_it(run: _Run) -> None:
    await run.says("migrating the database")

    assert await run.end(signal.SIGINT) == 0
    assert "Traceback" not in run.text


@pytest.mark.real
def test_a_port_in_use_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]
        result = subprocess.run(
            [sys.executable, "-m", "app.dev", "--port", str(port)],
            cwd=tmp_path,
            env=os.environ
            | {
                "PYTHONPATH": import_path(),
                "APP_NAME": "orders",
                "DESTINATION_APP": "billing",
                "DATABASE_URL": "sqlite+aiosqlite:///x",
            },
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    assert result.returncode == 2
    assert result.stderr == (
        f"--port: {port} is in use; stop the other process, or choose another port\n"
    )


def test_a_free_port_is_the_next_one_that_nobody_has() -> None:
    with socket.create_server(("", 0)) as listener:
        taken = listener.getsockname()[1]

        found = free_port(taken)
        assert found > taken
        assert free_port(taken, but_not=found) > found


@pytest.mark.real
async def test_nats_keeps_its_streams_in_the_folder_of_the_service(
    children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = server_processes.free_port()
    monkeypatch.setattr(local_servers, "_NATS_PORT", port)
    assert not await nats_answers(port)

    address = await start_nats(children, tmp_path / "nats")

    assert address == f"nats://127.0.0.1:{port}"
    assert await nats_answers(port)
    assert (tmp_path / "nats" / "jetstream").is_dir()
    await children.stop()
    assert not await nats_answers(port)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the account of PostgreSQL may enter, should the tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="dev-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.real
async def test_postgresql_is_started_with_the_user_and_the_database_of_the_address(
    children: Children, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_servers, "_ROOTS_DATA", open_folder)
    url = make_url(
        f"postgresql+asyncpg://me:secret@localhost:{server_processes.free_port()}/my-orders"
    )
    assert not await postgres_answers(url)

    for is_new in (True, False):  # the second time with the data of the first
        await start_postgres(children, url, open_folder / ".dev" / "postgres")
        assert await create_database(url) is is_new
        engine = create_engine(url.render_as_string(hide_password=False))
        async with engine.connect() as connection:
            assert (await connection.execute(text("SELECT current_user"))).scalar_one() == "me"
        await engine.dispose()
        await children.stop()
        assert not await postgres_answers(url)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("postgresql+asyncpg://me@localhost/db", True),
        ("postgresql+asyncpg://me@127.0.0.1:5433/db", True),
        ("postgresql+asyncpg://me@db.example.com/db", False),
        ("postgresql+asyncpg://me@/db?host=/run/postgresql", False),
        ("sqlite+aiosqlite:///x.db", False),
    ],
)
def test_only_a_postgresql_of_this_machine_is_started(address: str, local: bool) -> None:
    assert is_local_postgres(make_url(address)) is local
