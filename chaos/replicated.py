"""Three nats-servers with three replicas of everything, and two services that exchange events.

The services' bridges run here, in one process; each server is a process that can be lost.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import StreamInfo
from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession

from app.settings import ROOT, Settings
from chaos.counting import Change, execute, rows
from chaos.history import Stored, history
from chaos.roles import TABLES, Thing
from demo.servers import NatsServer, free_port
from jetstream_bridge import Bridge, Consumers, Event
from jetstream_bridge.service.bridge_config import bridge_config
from jetstream_bridge.service.database import Database, open_database
from jetstream_bridge.service.schema import migrate
from jetstream_bridge.service.settings_loading import read_settings

NODES = 3
_ENV = "cluster"
_STREAM = f"{_ENV}-jetstream-bridge-stream"
PAUSE = 0.05  # seconds between two looks

_PEERS = {"orders": "billing", "billing": "orders"}
_CHANGE = text("INSERT INTO things (resource, version) VALUES (:resource, :version)")
_EFFECT = text(
    "INSERT INTO effects (event_id, resource, version) VALUES (:event_id, :resource, :version)"
)
_WRITTEN = "SELECT count(*) FROM things"
_HANDLED = "SELECT count(DISTINCT event_id) FROM effects"
_WAITING = "SELECT count(*) FROM jetstream_outbox_events WHERE status <> 'sent'"
_WRITES_EVERY = 0.02  # seconds
_RESOURCES = 20
_STEP_LIMIT = 60.0  # seconds for each step; it takes few


class Broken(Exception):  # noqa: N818 - a guarantee, and the message says which
    """Something did not hold."""


async def comes_true(holds: Callable[[], Awaitable[bool]], limit: float) -> bool:
    """Say whether `holds` within `limit` seconds; a server that does not answer means: not yet."""
    deadline = time.monotonic() + limit
    while True:
        with suppress(NatsError, OSError, TimeoutError):
            if await holds():
                return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(PAUSE)


async def until(holds: Callable[[], Awaitable[bool]], what: str | Callable[[], str]) -> None:
    """Return when `holds`; raise `Broken` when a step's time is over."""
    if not await comes_true(holds, _STEP_LIMIT):
        told = what if isinstance(what, str) else what()
        raise Broken(f"not within {_STEP_LIMIT:g} s: {told}")


class Cluster:
    """Three servers that know each other. Their stores outlive their processes."""

    def __init__(self, binary: Path | None) -> None:
        routes = [f"127.0.0.1:{free_port()}" for _ in range(NODES)]
        self.nodes = {
            f"n{number}": NatsServer(binary=binary, config=_config(f"n{number}", route, routes))
            for number, route in enumerate(routes)
        }

    @property
    def urls(self) -> str:
        return ",".join(node.url for node in self.nodes.values())

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as stack:
            for node in self.nodes.values():
                stack.enter_context(node)
            yield


def _config(name: str, route: str, routes: list[str]) -> str:
    others = ", ".join(f'"nats-route://{other}"' for other in routes)
    return "\n".join(
        [
            f"server_name: {name}",
            # The name is this process' own: a run beside it may get a port that this one gave up.
            f'cluster {{ name: chaos-{os.getpid()}, listen: "{route}", routes: [{others}] }}',
            "lame_duck_grace_period: 500ms",
            "lame_duck_duration: 30s",
        ]
    )


class Services:
    """One service that writes and relays, and one that handles; their bridges run here."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._databases = {app: _open(app, cluster, folder) for app in _PEERS}
        bridges = {app: bridge_config(_settings(app, cluster, folder)) for app in _PEERS}
        sessions = {app: database.sessions for app, database in self._databases.items()}
        self.url = {app: database_url(app, folder) for app in _PEERS}
        self.orders = Bridge(bridges["orders"], sessions["orders"], relay=True)
        self.billing = Bridge(bridges["billing"], sessions["billing"], consumers=_handlers(self))
        self.effects = 0  # runs of the handler, to see that events flow
        self._enough = asyncio.Event()

    @property
    def problems(self) -> list[str]:
        """Why these services are not ready."""
        return [
            f"{bridge.config.app_name} {name}: {check.detail}"
            for bridge in (self.orders, self.billing)
            for name, check in bridge.checks().items()
            if not check.ok
        ] + [*self.orders.failures(), *self.billing.failures()]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        try:
            async with self.orders, self.billing:
                writing = asyncio.create_task(self._write())
                yield
                self._enough.set()
                await writing
                await self._settled()
        finally:
            for database in self._databases.values():
                await database.close()

    async def _write(self) -> None:
        """Make one change after another, until there are enough."""
        for number in itertools.count():
            if self._enough.is_set():
                return
            thing = Thing(id=f"r{number % _RESOURCES}", version=number // _RESOURCES)
            async with self._databases["orders"].sessions() as session:
                change = {"resource": thing.id, "version": thing.version}
                await (await session.connection()).execute(_CHANGE, change)
                await self.orders.publisher(session).publish("thing.changed", thing)
                await session.commit()
            await asyncio.sleep(_WRITES_EVERY)

    async def _settled(self) -> None:
        """Return when all that was written has been handled, and acknowledged.

        It is counted here: the consumer's new leader may say that nothing is pending before it
        has looked.
        """
        seen = "nothing was counted"

        async def is_handled() -> bool:
            [[waiting]] = await execute(self.url["orders"], _WAITING)
            [[written]] = await execute(self.url["orders"], _WRITTEN)
            [[handled]] = await execute(self.url["billing"], _HANDLED)
            nonlocal seen
            seen = f"{written} changes, {waiting} not sent, {handled} handled"
            return not waiting and handled >= written

        async def is_empty() -> bool:
            return not await self._unhandled()

        await until(is_handled, lambda: seen)
        await until(is_empty, "all acknowledgements")

    async def _unhandled(self) -> int:
        async with _connected(self.orders.config.connection.urls) as client:
            js = client.jetstream()
            info = await js.consumer_info(_STREAM, self.billing.durable())
            return (info.num_pending or 0) + (info.num_ack_pending or 0)

    async def stream(self) -> StreamInfo:
        """What the stream's leader tells of it."""
        async with _connected(self.orders.config.connection.urls) as client:
            return await client.jetstream().stream_info(_STREAM)

    async def history(self) -> list[Change]:
        """The changes that the stream tells of, in its order."""
        stored: list[Stored] = []

        async def read() -> bool:
            async with _connected(self.orders.config.connection.urls) as client:
                stored[:] = await history(client.jetstream(), _STREAM)
            return True

        await until(read, "the stream's history")
        things = [Thing.model_validate(message.envelope["payload"]) for message in stored]
        return [(thing.id, thing.version) for thing in things]


def _handlers(services: Services) -> Consumers:
    consumers = Consumers()

    @consumers.on("thing.changed")
    async def apply(event: Event[Thing], session: AsyncSession) -> None:
        thing = event.payload
        services.effects += 1
        effect = {"event_id": event.event_id, "resource": thing.id, "version": thing.version}
        await (await session.connection()).execute(_EFFECT, effect)

    return consumers


def database_url(app: str, folder: Path) -> str:
    """Where a service's database is."""
    return f"sqlite+aiosqlite:///{folder / app}.sqlite3"


def _settings(app: str, cluster: Cluster, folder: Path) -> Settings:
    return read_settings(
        Settings,
        _env_file=None,
        app_name=app,
        destination_app=_PEERS[app],
        nats_env=_ENV,
        nats_urls=cluster.urls,
        nats_stream_replicas=NODES,
        nats_retention="limits",  # so that the stream's history can be read in the end
        database_url=database_url(app, folder),
        ack_wait="5s",
    )


def _open(app: str, cluster: Cluster, folder: Path) -> Database:
    return open_database(_settings(app, cluster, folder))


@asynccontextmanager
async def _connected(urls: Sequence[str]) -> AsyncIterator[Client]:
    async def quiet(_error: Exception) -> None:
        """Servers that are down are what this is about."""

    client = await nats.connect(list(urls), connect_timeout=1, error_cb=quiet)
    try:
        yield client
    finally:
        await client.close()


def make_tables(folder: Path) -> None:
    """Make both services' tables."""
    for app in _PEERS:
        migrate(ROOT, database_url(app, folder))
        rows(database_url(app, folder), TABLES[app].format(key="INTEGER"))
