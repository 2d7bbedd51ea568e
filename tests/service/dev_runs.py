"""Services in folders of their own, each run by `python -m app.dev`, for tests of that command."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.settings import ROOT
from jetstream_bridge.testing import server_processes
from tests.processes import import_path
from tests.waiting import eventually

LIMIT = 60.0  # seconds; several processes start and stop in one test, on a busy machine
_OF_THE_TEMPLATE = ("app", "migrations", "alembic.ini")


class Machine:
    """A folder for local servers, ports for them that nobody uses, and the services beside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers = folder / "servers"
        self.postgres_port = server_processes.free_port()
        self.nats_port = server_processes.free_port()
        # As if it had been started there before, so that no test looks at port 4222.
        port_file = self.servers / "nats" / "port"
        port_file.parent.mkdir(parents=True)
        port_file.write_text(str(self.nats_port))
        self.runs: list[Run] = []

    def service(self, name: str, peer: str, *, postgres: bool = True) -> Service:
        folder = self.folder / name
        folder.mkdir()
        for part in _OF_THE_TEMPLATE:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, folder / part)
            else:
                shutil.copyfile(source, folder / part)
        address = f"postgresql+asyncpg://{name}:secret@localhost:{self.postgres_port}/{name}"
        return Service(self, folder, name, peer, address if postgres else f"{_SQLITE}/{name}.db")

    def stop(self) -> None:
        for run in self.runs:
            run.end_now()


class Service:
    """One service's folder and environment."""

    def __init__(self, machine: Machine, folder: Path, name: str, peer: str, url: str) -> None:
        self.machine = machine
        self.folder = folder
        self.environment = os.environ | {
            "PYTHONPATH": import_path(),
            "PYTHONDONTWRITEBYTECODE": "1",
            "APP_NAME": name,
            "DESTINATION_APP": peer,
            "DATABASE_URL": url,
            "NATS_URLS": "",
            "SHUTDOWN_GRACE": "5s",
            "LOCAL_SERVERS_FOLDER": str(machine.servers),
        }

    def run(self, *arguments: str, **environment: str) -> Run:
        run = Run(self.folder, [*arguments], self.environment | environment)
        self.machine.runs.append(run)
        return run

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of the service's commands."""
        return subprocess.run(
            [sys.executable, "-m", "app.cli", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )


class Run:
    """One `python -m app.dev`, with what it has printed so far."""

    def __init__(self, folder: Path, arguments: list[str], environment: dict[str, str]) -> None:
        self._output = Path(tempfile.mkstemp(prefix="output-", dir=folder)[1])
        with self._output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app.dev", *arguments],
                cwd=folder,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self._output.read_text(errors="replace")

    @property
    def api(self) -> str:
        """The API's address, once the banner has told it."""
        found = re.search(r"^dev +\|   API +(\S+)", self.text, re.MULTILINE)
        assert found, self.text
        return found[1]

    async def says(self, line: str, *, times: int = 1) -> None:
        await eventually(
            lambda: self.text.count(line) >= times or self.process.poll() is not None,
            limit=LIMIT,
            what=f"{line!r} in\n{self.text}\n",
        )
        assert self.text.count(line) >= times, self.text

    def pid(self, name: str) -> int:
        found = re.findall(rf"^{name} +\| started as process (\d+)$", self.text, re.MULTILINE)
        assert found, self.text
        return int(found[-1])

    async def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, LIMIT)

    def end_now(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.send_signal(signal.SIGINT)
            self.process.wait(LIMIT)


_SQLITE = "sqlite+aiosqlite:///."


@contextmanager
def machine() -> Iterator[Machine]:
    """Stops the services and the servers at the end, and removes everything."""
    # Not below pytest's own folder, which the account of PostgreSQL may not enter under root.
    folder = Path(tempfile.mkdtemp(prefix="dev-"))
    folder.chmod(0o755)
    made = Machine(folder)
    last = made.service("last", "other", postgres=False)
    try:
        yield made
    finally:
        made.stop()
        stopped = last.command("servers", "stop")
        shutil.rmtree(folder)
        assert stopped.returncode == 0, stopped.stderr
