"""The one place where the bridge's parts are put together, started and stopped.

A bridge starts at once, whether NATS is there or not, and catches up by itself. When it stops, it
stops asking for work first and gives up its connection last, each step within a time limit.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import replace
from types import TracebackType
from typing import Self

from nats.errors import Error as NatsError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.commits import honest_commits
from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.core.database_faults import DATABASE_ERRORS
from jetstream_bridge.core.delays import RetryStrategy
from jetstream_bridge.core.errors import BridgeError, ConfigurationError
from jetstream_bridge.core.tasks import Tasks, happens
from jetstream_bridge.events.declared_events import DeclaredEvents
from jetstream_bridge.events.wire_rules import GEM_ID_HEADER, ID_HEADER
from jetstream_bridge.inbox.assembly import WorkerFactory, checked_resources, warn_of_unused
from jetstream_bridge.inbox.dependencies import Resources
from jetstream_bridge.inbox.exclusive_worker import ExclusiveWorker
from jetstream_bridge.inbox.maintenance import InboxMaintenance
from jetstream_bridge.inbox.outage import PendingMigrations
from jetstream_bridge.inbox.registry import Consumers
from jetstream_bridge.nats.client import GuardedClient
from jetstream_bridge.nats.connection import Connection, ConnectionEvent
from jetstream_bridge.nats.management import StreamApi
from jetstream_bridge.nats.publishing import AckPublisher
from jetstream_bridge.nats.session import ClientFactory
from jetstream_bridge.operations.dead_letter_queue import DeadLetterQueue
from jetstream_bridge.operations.inspection import Inspection
from jetstream_bridge.operations.listing import InboxListing, OutboxListing
from jetstream_bridge.operations.readiness import Check, Checks
from jetstream_bridge.outbox.assembly import make_relay
from jetstream_bridge.outbox.direct_publishing import DirectPublisher, DirectSettings
from jetstream_bridge.outbox.duplicates import Duplicates
from jetstream_bridge.outbox.maintenance import OutboxMaintenance
from jetstream_bridge.outbox.pauses import OutboxPause
from jetstream_bridge.outbox.publisher import Publisher, PublisherSettings, Publishing
from jetstream_bridge.outbox.relay import Relay
from jetstream_bridge.outbox.sessions import Outbox
from jetstream_bridge.outbox.wakeup import listen
from jetstream_bridge.topology.durable_names import DurableSpec, durable_spec
from jetstream_bridge.topology.permissions import inbox_prefix, runtime_rights
from jetstream_bridge.topology.provisioning import Topology, sources_of
from jetstream_bridge.topology.subject_index import SubjectIndex
from jetstream_bridge.topology.unread_subjects import UnreadWatch

logger = logging.getLogger(__name__)

PROVISION_MIN, PROVISION_MAX = 0.2, 10.0  # seconds between two tries
CLEANUP_EVERY = 60.0  # seconds between two looks for inbox rows past their retention
CLOSE_LIMIT = 5.0  # seconds for the connection's own end


class Bridge:
    """A service's end of the bridge: `async with Bridge(config, sessions, relay=True)`.

    `relay` runs the outbox's relay here. `consumers` runs a worker for each durable that its
    handlers need. Both may be absent: publishing through the outbox works all the same, and some
    other process' relay sends the events.
    """

    def __init__(
        self,
        config: BridgeConfig,
        sessions: async_sessionmaker[AsyncSession],
        *,
        relay: bool = False,
        consumers: Consumers | None = None,
        handlers: Consumers | None = None,
        pending_migrations: PendingMigrations | None = None,
        resources: Resources | None = None,
        declared: DeclaredEvents | None = None,
        make_client: ClientFactory = GuardedClient,
    ) -> None:
        """`handlers` are those of another process of the service: this one runs none of them, and
        knows which durables to look at. `pending_migrations` names what the database lacks: while
        there is any, nothing is handled. `resources` are what the handlers may ask for by type
        beside the bridge's own: all that `consumers` was told of. `declared` are the events that
        the service says it publishes. `make_client` makes the NATS client of each connection.

        Raises `RegistrationError` where handlers and resources do not fit together."""
        self.config = config
        self._sessions = sessions
        self._engine = _engine_of(sessions)
        honest_commits(self._engine)
        self.outbox_listing = OutboxListing(self._engine)
        self.outbox_maintenance = OutboxMaintenance(self._engine)
        self.outbox_pause = OutboxPause(self._engine)
        self.inbox_listing = InboxListing(self._engine)
        self.inbox_maintenance = InboxMaintenance(self._engine)
        self.connection = Connection(
            config.connection,
            name=f"{config.app_name}-{config.env}",
            inbox_prefix=inbox_prefix(config),
            make_client=make_client,
        )
        self.acks = AckPublisher(
            self.connection, stream=config.stream, timeout=config.publish_timeout
        )
        specs = _durables(consumers, config)
        others = _durables(handlers, config)
        self.topology = Topology(self.connection, config, durables=specs, peers=sources_of(others))
        self.letters = DeadLetterQueue(self.connection, self.acks, config)
        looked_at = specs or others or (durable_spec(config, None),)
        self.inspection = Inspection(self.connection, config, looked_at)
        self._unread = UnreadWatch(self.inspection.unread, own=[spec.subject for spec in specs])
        self._routes = SubjectIndex(self.topology, config)
        self._tasks = Tasks()
        self._provision_now = asyncio.Event()
        self._duplicates = Duplicates(StreamApi(self.connection), config.stream)
        self._relay = self._make_relay() if relay and config.use_outbox else None
        self._outbox = Outbox(
            on_commit=self._relay.wake_after_commit if self._relay is not None else None,
            notify=self._relay is None,
        )
        self._publishing = self._make_publishing(declared or DeclaredEvents())
        self._durable_names = {spec.source: spec.name for spec in specs}
        self._workers: dict[str, ExclusiveWorker] = {}
        if consumers is not None:
            factory = WorkerFactory(
                config=config,
                connection=self.connection,
                topology=self.topology,
                acks=self.acks,
                engine=self._engine,
                sessions=sessions,
                publisher=self.publisher,
                consumers=consumers,
                resources=checked_resources(consumers, resources or {}),
                pending=pending_migrations,
            )
            self._workers = {spec.name: factory.worker_of(spec) for spec in specs}
        self._checks = Checks(
            connection=self.connection,
            topology=self.topology,
            rights=tuple(right.subject for right in runtime_rights(config, specs)),
            relay=self._relay,
            workers=self._workers,
            failures=self.failures,
            needs_nats=bool(self._workers) or not config.use_outbox or config.ready_requires_nats,
        )

    def publisher(self, session: AsyncSession, *, retry: RetryStrategy | None = None) -> Publisher:
        """Return what announces events in `session`'s transaction.

        `retry` is for sending without the outbox, instead of the configured strategy.
        """
        return Publisher(session, self._publishing, retry=retry)

    def letters_of(self, app: str) -> DeadLetterQueue:
        """Return the dead letters of a peer on the same stream."""
        return DeadLetterQueue(self.connection, self.acks, self.config, app=app)

    def wake_relay(self) -> None:
        """There may be work: a relay in this process looks now."""
        if self._relay is not None:
            self._relay.wake()

    def durable(self, source: str | None = None) -> str:
        """The name of the durable for `source`; without one, that for the default destination."""
        return self._durable_names.get(source) or self.config.names.durable(source)

    # --- starting and stopping

    async def __aenter__(self) -> Self:
        self.connection.add_listener(self._on_connection)
        await self.connection.start()
        self._tasks.start("topology", self._provision)
        if self.config.auto_provision:  # who may not provision may not list consumers either
            self._tasks.start("unread subjects", self._unread.run)
        if self._relay is not None:
            self._tasks.start("relay", self._relay.run)
            if self._engine.dialect.name == "postgresql" and self.config.relay_listens:
                wake = self._relay.wake
                self._tasks.start("relay wake-up", lambda: listen(self._engine, wake))
        for name, worker in self._workers.items():
            self._tasks.start(f"worker {name}", worker.run)
        if self._workers:
            self._tasks.start("inbox clean-up", self._clean_up)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def stop(self, *, grace: float | None = None) -> None:
        """Stop within `grace` seconds (None: as configured) and the few that closing may take."""
        grace = self.config.shutdown_grace if grace is None else grace
        ends_at = loop_time() + grace
        await asyncio.gather(
            self._tasks.cancel("topology", "unread subjects", "relay wake-up", "inbox clean-up"),
            *(worker.stop(grace) for worker in self._workers.values()),
        )
        await asyncio.gather(*(self._tasks.finish(f"worker {n}", 1.0) for n in self._workers))
        if self._relay is not None:
            self._relay.stop()
            await self._tasks.finish("relay", max(1.0, ends_at - loop_time()))
        await self._tasks.cancel()
        self.acks.close()
        self.connection.remove_listener(self._on_connection)
        await self.connection.close(timeout=CLOSE_LIMIT)

    # --- health

    def running(self) -> list[str]:
        """Return a line for each handler that runs now. May be called from another thread."""
        return [line for worker in self._workers.values() for line in worker.running]

    def failures(self) -> list[str]:
        """Return a line for each background task that is down, or dies whenever it is started."""
        return [
            *self._tasks.failures(),
            *self.connection.failures(),
            *(
                f"a batch of {name} died: {worker.failure!r}"
                for name, worker in self._workers.items()
                if worker.failure is not None
            ),
        ]

    def checks(self) -> dict[str, Check]:
        """Return what readiness depends on, without asking anybody."""
        checks = self._checks()
        stream = checks["stream"]
        if stream.ok and self._unread.detail is not None:
            checks["stream"] = replace(stream, detail=self._unread.detail)
        return checks

    # --- topology

    def _on_connection(self, event: ConnectionEvent) -> None:
        if event in (ConnectionEvent.CONNECTED, ConnectionEvent.REPLACED):
            self._provision_now.set()

    async def _provision(self) -> None:
        """Ensure the stream at each connect, for a server may come back without it.

        And again while something is wrong: a consumer may have been found wanting since.
        """
        while True:
            connected = await happens(self._provision_now, PROVISION_MAX)
            if not connected and self.topology.problem is None:
                continue
            self._provision_now.clear()
            pause = PROVISION_MIN
            while self.connection.connected and not await self._ensured():
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(PROVISION_MAX, pause * 2)

    async def _ensured(self) -> bool:
        try:
            await self.topology.ensure()
        except (BridgeError, NatsError, OSError, TimeoutError) as error:
            logger.warning("the stream could not be ensured: %s", error)
            return False
        if self._relay is not None:
            self._relay.hope()
        return self.topology.problem is None

    # --- parts

    def _make_publishing(self, declared: DeclaredEvents) -> Publishing:
        config = self.config
        direct = DirectSettings(
            id_header=GEM_ID_HEADER if config.gem_peer else ID_HEADER,
            retry=config.publish_retry,
            timeout=config.publish_timeout,
            limit=config.publish_limit,
        )
        return Publishing(
            self._outbox,
            self.acks,
            DirectPublisher(self.acks, self._routes, self._duplicates, direct),
            self._routes,
            PublisherSettings(
                names=config.names,
                destination=config.destination_app,
                use_outbox=config.use_outbox,
            ),
            declared,
        )

    def _make_relay(self) -> Relay:
        return make_relay(
            self.config,
            self._engine,
            self.connection,
            self.acks,
            self._duplicates,
            self.outbox_maintenance,
            self._routes,
        )

    async def _clean_up(self) -> None:
        """Delete inbox rows past their retention, a portion at a time."""
        while True:
            await asyncio.sleep(CLEANUP_EVERY * random.uniform(0.5, 1.0))
            try:
                await self.inbox_maintenance.purge(older_than=self.config.inbox_retention)
            except DATABASE_ERRORS as error:
                logger.warning("inbox clean-up failed: %s", type(error).__name__)


def _durables(consumers: Consumers | None, config: BridgeConfig) -> tuple[DurableSpec, ...]:
    """Return what these handlers read from, all of them being registered now."""
    if consumers is None:
        return ()
    consumers.check()
    warn_of_unused(consumers, config)
    return consumers.durables(config)


def _engine_of(sessions: async_sessionmaker[AsyncSession]) -> AsyncEngine:
    engine = sessions.kw.get("bind")
    if not isinstance(engine, AsyncEngine):
        raise ConfigurationError(
            "the session factory has no engine; make it with async_sessionmaker(engine, ...)"
        )
    return engine
