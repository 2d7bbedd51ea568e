"""`python -m chaos.cluster`: three nats-servers with three replicas lose one after another.

Two services exchange events all the while. Their bridges run here, in one process; only servers
die. Status 0: every change took effect once, in order, and the bridges were ready whenever the
cluster was whole.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import ClusterInfo, StreamInfo
from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession

from app.settings import ROOT, Settings
from chaos.counting import Change, changes_of, count, execute, rows
from chaos.history import Stored, history
from chaos.roles import TABLES, Thing
from demo.servers import NatsServer, free_port
from jetstream_bridge import Bridge, Consumers, Event
from jetstream_bridge.service.bridge_config import bridge_config
from jetstream_bridge.service.database import Database, open_database
from jetstream_bridge.service.schema import migrate
from jetstream_bridge.service.settings_loading import read_settings

NODES = 3
ENV = "cluster"
STREAM = f"{ENV}-jetstream-bridge-stream"

_PEERS = {"orders": "billing", "billing": "orders"}
_CHANGE = text("INSERT INTO things (resource, version) VALUES (:resource, :version)")
_EFFECT = text(
    "INSERT INTO effects (event_id, resource, version) VALUES (:event_id, :resource, :version)"
)
_WRITTEN = "SELECT count(*) FROM things"
_HANDLED = "SELECT count(DISTINCT event_id) FROM effects"
_WAITING = "SELECT count(*) FROM jetstream_outbox_events WHERE status <> 'sent'"

_LIMIT = 60.0  # seconds for each step; it takes few
_CATCHES_UP = 30.0  # seconds for a replica; then it is helped, so many times
_HELPED = 3
_WRITES_EVERY = 0.02  # seconds
_RESOURCES = 20
_WATCHED = 1.0  # seconds after each step in which all must be well without a break
_TERMINATED = 143
_PAUSE = 0.05  # seconds between two looks
_AGAIN = 20  # effects after which events flow again


class Broken(Exception):  # noqa: N818 - a guarantee, and the message says which
    """Something did not hold."""


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
        self.url = {app: _database_url(app, folder) for app in _PEERS}
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
            info = await js.consumer_info(STREAM, self.billing.durable())
            return (info.num_pending or 0) + (info.num_ack_pending or 0)

    async def history(self) -> list[Change]:
        """The changes that the stream tells of, in its order."""
        stored: list[Stored] = []

        async def read() -> bool:
            async with _connected(self.orders.config.connection.urls) as client:
                stored[:] = await history(client.jetstream(), STREAM)
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


def _database_url(app: str, folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder / app}.sqlite3"


def _settings(app: str, cluster: Cluster, folder: Path) -> Settings:
    return read_settings(
        Settings,
        _env_file=None,
        app_name=app,
        destination_app=_PEERS[app],
        nats_env=ENV,
        nats_urls=cluster.urls,
        nats_stream_replicas=NODES,
        nats_retention="limits",  # so that the stream's history can be read in the end
        database_url=_database_url(app, folder),
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


# --- the losses


class Trial:
    """One loss after another; after each of them events flow again and all are ready."""

    def __init__(self, cluster: Cluster, services: Services) -> None:
        self._cluster = cluster
        self._services = services
        self.gaps: dict[str, float] = {}  # seconds until events flowed again, by what was lost
        self._seen: ClusterInfo | None = None  # what the stream's leader told last of its replicas

    async def run(self) -> None:
        await self._whole("start")
        await self._loses("the leader, killed", self._kill_the_leader)
        await self._loses("the leader, in lame duck mode", self._lame_duck)
        for name in self._cluster.nodes:
            await self._loses(f"{name}, restarted", partial(self._restart, name))
        await self._loses("a node with its store", self._lose_a_node)

    async def _loses(self, what: str, lose: Callable[[], Awaitable[None]]) -> None:
        begun = time.monotonic()
        await lose()
        print(f"{what}: events flowed again after {self.gaps.pop('flow'):.1f} s", flush=True)
        await self._whole(what)
        print(f"{what}: whole again after {time.monotonic() - begun:.1f} s", flush=True)

    async def _kill_the_leader(self) -> None:
        node = self._cluster.nodes[await self._leader()]
        node.kill()
        await self._flows()
        await asyncio.to_thread(node.start)

    async def _lame_duck(self) -> None:
        node = self._cluster.nodes[await self._leader()]
        os.kill(node.pid, signal.SIGUSR2)
        await self._flows()
        await until(_answers(lambda: not node.is_running), "the end of the lame duck")
        await asyncio.to_thread(node.start)

    async def _restart(self, name: str) -> None:
        node = self._cluster.nodes[name]
        await asyncio.to_thread(node.terminate)
        await self._flows()
        await asyncio.to_thread(node.start)

    async def _lose_a_node(self) -> None:
        leader = await self._leader()
        node = next(node for name, node in self._cluster.nodes.items() if name != leader)
        node.kill()
        shutil.rmtree(node.store)
        await self._flows()
        await asyncio.to_thread(node.start)

    async def _flows(self) -> None:
        """Return when events flow, though not all servers are there."""
        begun = time.monotonic()
        enough = self._services.effects + _AGAIN
        await until(_answers(lambda: self._services.effects >= enough), "events that flow again")
        self.gaps["flow"] = time.monotonic() - begun

    async def _whole(self, what: str) -> None:
        """Return when every server has everything; then nobody may complain for a while."""
        for _ in range(_HELPED):
            try:
                await until(self._is_whole, "a whole cluster", limit=_CATCHES_UP)
                break
            except Broken:
                await self._help(what)
        await until(self._is_whole, lambda: f"a whole cluster after {what}: {self._seen}")
        await self._flows()
        await until(
            _answers(lambda: not self._services.problems),
            lambda: f"readiness after {what}: {self._services.problems}",
        )
        watched = time.monotonic() + _WATCHED
        while time.monotonic() < watched:
            if self._services.problems:
                raise Broken(
                    f"not ready in a whole cluster, after {what}: {self._services.problems}"
                )
            await asyncio.sleep(_PAUSE)

    async def _help(self, what: str) -> None:
        """Restart the replicas that the leader has not heard of, as an operator would: a server
        of 2.10 that comes back leaves the stream's group alone at times, and for good."""
        replicas = (self._seen.replicas if self._seen is not None else None) or ()
        for name in [peer.name for peer in replicas if peer.name and not peer.current]:
            print(f"{what}: {name} does not catch up, and is restarted", flush=True)
            await asyncio.to_thread(self._cluster.nodes[name].terminate)
            await asyncio.to_thread(self._cluster.nodes[name].start)

    async def _is_whole(self) -> bool:
        self._seen = cluster = (await self._info()).cluster
        return (
            cluster is not None
            and cluster.leader is not None
            and len(cluster.replicas or ()) == NODES - 1
            and all(peer.current and not peer.offline for peer in cluster.replicas or ())
        )

    async def _leader(self) -> str:
        cluster = (await self._info()).cluster
        if cluster is None or cluster.leader is None:
            raise Broken("a whole cluster without a leader")
        return cluster.leader

    async def _info(self) -> StreamInfo:
        async with _connected(self._services.orders.config.connection.urls) as client:
            return await client.jetstream().stream_info(STREAM)


def _answers(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def answer() -> bool:
        return condition()

    return answer


async def until(
    holds: Callable[[], Awaitable[bool]], what: str | Callable[[], str], *, limit: float = _LIMIT
) -> None:
    """Return when `holds`; a server that does not answer means: not yet."""
    deadline = time.monotonic() + limit
    while True:
        with suppress(NatsError, OSError, TimeoutError):
            if await holds():
                return
        if time.monotonic() > deadline:
            raise Broken(f"not within {limit:g} s: {what if isinstance(what, str) else what()}")
        await asyncio.sleep(_PAUSE)


async def run(binary: Path | None, folder: Path) -> list[Change]:
    """Go through all losses; return the changes that the stream tells of in the end."""
    cluster = Cluster(binary)
    with cluster.running():
        services = Services(cluster, folder)
        async with services.running():
            await Trial(cluster, services).run()
        return await services.history()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m chaos.cluster", description=__doc__)
    parser.add_argument("--server", type=Path, help="the nats-server to take; else the newest")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))  # the servers end then too
    with tempfile.TemporaryDirectory(prefix="cluster-") as name:
        folder = Path(name)
        for app in _PEERS:
            migrate(ROOT, _database_url(app, folder))
            rows(_database_url(app, folder), TABLES[app].format(key="INTEGER"))
        try:
            stored = asyncio.run(run(arguments.server, folder))
        except Broken as broken:
            raise SystemExit(f"broken: {broken}") from None
        found = _judge(folder, stored)
    raise SystemExit(f"broken: {found}" if found else 0)


def _judge(folder: Path, stored: list[Change]) -> str | None:
    """What did not hold: each change has one message and one effect, both in order."""
    changes = changes_of(_database_url("orders", folder), "things")
    effects = changes_of(_database_url("billing", folder), "effects", order="id")
    print(f"{len(changes)} changes, {len(stored)} messages stored, {len(effects)} effects")
    found = {"the stream": count(changes, stored), "the effects": count(changes, effects)}
    return "; ".join(f"{place}: {wrong}" for place, wrong in found.items() if wrong) or None


if __name__ == "__main__":
    main()
