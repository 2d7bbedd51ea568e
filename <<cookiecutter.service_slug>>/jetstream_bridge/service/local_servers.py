"""The servers of this machine's services: a nats-server and a PostgreSQL, both from PyPI wheels.

They belong to a folder and to no service: whoever starts first starts them, everybody finds them at
the same address, and they run until they are stopped by command. One process at a time starts or
stops them.
"""

from __future__ import annotations

import asyncio
import fcntl
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TextIO

from sqlalchemy.engine import URL

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.service.local_folder import recorded_nats_port
from jetstream_bridge.service.local_nats import LocalNats, nats_answers
from jetstream_bridge.service.local_postgres import (
    POSTGRES_PORT,
    LocalPostgres,
    create_database,
    port_answers,
)
from jetstream_bridge.service.local_server import LocalServer, NotStartedError

_LOCK_LIMIT = 180.0  # seconds; the first start ever copies PostgreSQL and makes its data
_TELL_AFTER = 2.0  # seconds
Say = Callable[[str], None]


class LocalServers:
    """The servers in `folder`. `say` tells a person what is being done."""

    def __init__(self, folder: Path, say: Say) -> None:
        self._folder = folder
        self._say = say

    async def need_nats(self) -> None:
        """Have a NATS server where a service looks for it that names none."""
        async with self._alone():
            nats = LocalNats(self._folder)
            running = await nats.report()
            if running.runs:
                self._say(f"using the local nats-server at {running.address}")
            elif recorded_nats_port(self._folder) is None and await nats_answers():
                self._say("using the NATS server that answers on port 4222")
            else:
                self._say(f"started a nats-server at {await nats.start()}")

    async def need_postgres(self, url: URL) -> None:
        """Have a PostgreSQL with a database at `url`, an address of this machine."""
        port = url.port or POSTGRES_PORT
        async with self._alone():
            server = LocalPostgres(self._folder, port)
            ours = (await server.report()).runs
            if ours:
                self._say(f"using the local PostgreSQL at localhost:{port}")
            elif await port_answers(url.host, port):
                self._say(f"using the PostgreSQL that answers at {url.host}:{port}")
            else:
                self._say(f"nothing answers at {url.host}:{port}; starting a PostgreSQL there")
                await server.start()
                ours = True
            if await (server.make_room(url) if ours else create_database(url)):
                self._say(f"created the database {url.database!r}")

    async def report(self) -> list[LocalServer]:
        """Every server that was started here at any time."""
        found = [await one.report() for one in LocalPostgres.all_in(self._folder)]
        nats = await LocalNats(self._folder).report()
        return [*found, nats] if nats.runs or nats.data.exists() else found

    async def stop(self) -> list[LocalServer]:
        """Stop those that run, and return them as they were."""
        if not self._folder.exists():
            return []
        async with self._alone():
            running = [one for one in await self.report() if one.runs]
            await LocalNats(self._folder).stop()
            for server in LocalPostgres.all_in(self._folder):
                await server.stop()
        return running

    async def delete(self) -> None:
        """Delete the data of all servers; they must have been stopped."""
        running = [one for one in await self.report() if one.runs]
        if running:
            raise NotStartedError(f"{running[0].name} runs; stop the servers first")
        for data in (self._folder / "nats", *self._folder.glob("postgres-*")):
            if data.exists():
                await asyncio.to_thread(shutil.rmtree, data)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """While no other process starts or stops these servers. It ends with this process."""
        with _lock_file(self._folder) as file:
            begun, told = loop_time(), False
            while not _locked(file.fileno()):
                waited = loop_time() - begun
                if waited > _LOCK_LIMIT:
                    raise NotStartedError(
                        f"another process holds {file.name} for {waited:.0f} s; end it"
                    )
                if waited > _TELL_AFTER and not told:
                    told = True
                    self._say("another process is starting or stopping the local servers; waiting")
                await asyncio.sleep(0.05)
            yield


def _lock_file(folder: Path) -> TextIO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / "lock").open("w")
    except OSError as error:
        raise NotStartedError(
            f"the folder of the local servers cannot be used ({error}); "
            "name another one in LOCAL_SERVERS_FOLDER"
        ) from error


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
