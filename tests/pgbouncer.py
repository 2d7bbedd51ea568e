"""A PgBouncer in transaction mode before a test's PostgreSQL, where the program is installed."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from sqlalchemy import make_url

from jetstream_bridge.testing.server_processes import free_port, wait_until

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_pgbouncer = pytest.mark.skipif(
    PROGRAM is None, reason="pgbouncer is not installed; `apt-get install pgbouncer`"
)


def version() -> str:
    assert PROGRAM is not None
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"PgBouncer (\S+)", said.stdout)
    assert found is not None, said.stdout
    return found[1]


class PgBouncer:
    """Few server connections for many clients, so that these are handed from one to the next."""

    def __init__(self, url: str, *, connections: int = 3) -> None:
        self._inner = make_url(url)
        self._connections = connections
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        outer = self._inner.set(host="127.0.0.1", port=self.port, query={})
        return outer.render_as_string(hide_password=False)

    def __enter__(self) -> Self:
        assert PROGRAM is not None
        config = self.folder / "pgbouncer.ini"
        config.write_text(self._config())
        account = pwd.getpwnam("nobody") if os.getuid() == 0 else None  # it refuses to be root
        if account is not None:
            self.folder.chmod(0o755)
        self._process = subprocess.Popen(
            [PROGRAM, str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=account.pw_uid if account else None,
        )
        wait_until(self._answers, limit=20, what="start of pgbouncer")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _config(self) -> str:
        folder, name = self._inner.query["host"], self._inner.database
        return f"""
[databases]
{name} = host={folder} dbname={name} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {self._connections}
max_client_conn = 200
"""

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                return True
        except OSError:
            return False
