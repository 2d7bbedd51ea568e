"""The one place where the bridge's parts are put together, started and stopped.

A bridge starts at once, whether NATS is there or not, and catches up by itself. When it stops, it
stops asking for work first and gives up its connection last, each step within a time limit.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from nats.errors import Error as NatsError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlmodel.ext.asyncio.session import AsyncSession

from .acks import AckPublisher
from .config import BridgeConfig
from .connection import Connection, ConnectionEvent
from .direct import DirectPublisher, DirectSettings
from .durable_spec import DurableSpec, durable_spec
from .envelope import GEM_ID_HEADER, ID_HEADER
from .errors import BridgeError, ConfigurationError
from .inbox_maintenance import InboxMaintenance
from .inspection import Inspection
from .lanes import lanes_of
from .letter_box import LetterBox
from .listing import InboxListing, OutboxListing
from .nats_session import ClientFactory, GuardedClient
from .outbox import Outbox
from .outbox_maintenance import OutboxMaintenance
from .pauses import OutboxPause
from .permissions import inbox_prefix, runtime_rights
from .publisher import Publisher, PublisherSettings, Publishing
from .registry import Consumers
from .reign import Reign
from .relay import ROUND_LIMIT, Relay, RelaySettings
from .retry import Backoff, RetryStrategy
from .routes import Routes
from .tasks import Tasks, happens
from .topology import Topology
from .wake import listen
from .workers import Workers, warn_of_unused

logger = logging.getLogger(__name__)

PROVISION_MIN, PROVISION_MAX = 0.2, 10.0  # seconds between two tries
CLEANUP_EVERY = 60.0  # seconds between two looks for inbox rows past their retention
CLOSE_LIMIT = 5.0  # seconds for the connection's own end


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a readiness report."""

    ok: bool
    detail: str | None = None


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
        make_client: ClientFactory = GuardedClient,
    ) -> None:
        """`handlers` are those of another process of the service: this one runs none of them, and
        knows which durables to look at. `make_client` makes the NATS client of each connection;
        tests put another one in."""
        self.config = config
        self._sessions = sessions
        self._engine = _engine_of(sessions)
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
        self.topology = Topology(self.connection, config, durables=specs)
        self.letters = LetterBox(self.connection, self.acks, config)
        looked_at = specs or _durables(handlers, config) or (durable_spec(config, None),)
        self.inspection = Inspection(self.connection, config, looked_at)
        self._rights = tuple(right.subject for right in runtime_rights(config, specs))
        self._routes = Routes(self.topology, config)
        self._tasks = Tasks()
        self._provision_now = asyncio.Event()
        self._relay = self._make_relay() if relay and config.use_outbox else None
        self._outbox = Outbox(
            on_commit=self._relay.wake if self._relay is not None else None,
            notify=self._relay is None,
        )
        self._publishing = self._make_publishing()
        self._durable_names = {spec.source: spec.name for spec in specs}
        self._reigns: dict[str, Reign] = {}
        if consumers is not None:
            workers = Workers(
                config=config,
                connection=self.connection,
                topology=self.topology,
                acks=self.acks,
                engine=self._engine,
                sessions=sessions,
                publisher=self.publisher,
                consumers=consumers,
            )
            self._reigns = {spec.name: workers.reign(spec) for spec in specs}

    def publisher(self, session: AsyncSession, *, retry: RetryStrategy | None = None) -> Publisher:
        """Return what announces events in `session`'s transaction.

        `retry` is for sending without the outbox, instead of the configured strategy.
        """
        return Publisher(session, self._publishing, retry=retry)

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
        self._tasks.start("topology", self._provision())
        if self._relay is not None:
            self._tasks.start("relay", self._relay.run())
            if self._engine.dialect.name == "postgresql":
                self._tasks.start("relay wake-up", listen(self._engine, self._relay.wake))
        for name, reign in self._reigns.items():
            self._tasks.start(f"worker {name}", reign.run())
        if self._reigns:
            self._tasks.start("inbox clean-up", self._clean_up())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop within `shutdown_grace` seconds and the few that closing may take."""
        await self._tasks.cancel("topology", "relay wake-up", "inbox clean-up")
        grace = self.config.shutdown_grace
        await asyncio.gather(*(reign.stop(grace) for reign in self._reigns.values()))
        for name in self._reigns:
            await self._tasks.finish(f"worker {name}", 2.0)
        if self._relay is not None:
            self._relay.stop()
            await self._tasks.finish("relay", grace)
        await self._tasks.cancel()
        self.acks.close()
        self.connection.remove_listener(self._on_connection)
        await self.connection.close(timeout=CLOSE_LIMIT)

    # --- health

    def failures(self) -> list[str]:
        """Return a line for each background task that died; such a process should be replaced."""
        dead = self._tasks.failures()
        if self.connection.failure is not None:
            dead.append(f"connection supervisor died: {self.connection.failure!r}")
        dead.extend(
            f"a batch of {name} died: {reign.failure!r}"
            for name, reign in self._reigns.items()
            if reign.failure is not None
        )
        return dead

    def checks(self) -> dict[str, Check]:
        """Return what readiness depends on, without asking anybody."""
        connected = self.connection.connected
        checks = {
            "nats": _check(
                self._missing_rights if connected else self.connection.error or "connecting"
            ),
            "stream": _check(self.topology.problem if connected else "not connected to NATS"),
        }
        if self._relay is not None:
            checks["relay"] = self._relay_check(self._relay)
        if self._reigns:
            problems = [f"{n}: {r.problem}" for n, r in self._reigns.items() if r.problem]
            checks["consumers"] = _check("; ".join(problems) or None)
        return checks

    @staticmethod
    def _relay_check(relay: Relay) -> Check:
        """A paused relay does what it is told, so it does not keep the process from being ready."""
        if relay.problem is None and relay.paused_since is not None:
            since = relay.paused_since.strftime("%Y-%m-%dT%H:%M:%SZ")
            return Check(ok=True, detail=f"paused since {since}; POST /admin/outbox/resume")
        return _check(relay.problem)

    @property
    def _missing_rights(self) -> str | None:
        """What the server refused lately of all that this service needs."""
        refused = {self.connection.denial(subject): None for subject in self._rights}
        return "; ".join(text for text in refused if text is not None) or None

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
            self._relay.wake()
        return self.topology.problem is None

    # --- parts

    def _make_publishing(self) -> Publishing:
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
            DirectPublisher(self.acks, self._routes, direct),
            self._routes,
            PublisherSettings(
                names=config.names,
                destination=config.destination_app,
                use_outbox=config.use_outbox,
            ),
        )

    def _make_relay(self) -> Relay:
        return Relay(
            lanes_of(self._engine, transaction_limit=ROUND_LIMIT),
            self.outbox_maintenance,
            self.acks,
            self.connection,
            RelaySettings(
                batch_size=self.config.relay_batch_size,
                max_attempts=self.config.outbox_max_attempts,
                backoff=Backoff(self.config.backoff),
                retention=self.config.outbox_retention,
                gem_peer=self.config.gem_peer,
            ),
            routes=self._routes.open,
        )

    async def _clean_up(self) -> None:
        """Delete inbox rows past their retention, a portion at a time."""
        while True:
            await asyncio.sleep(CLEANUP_EVERY * random.uniform(0.5, 1.0))
            try:
                await self.inbox_maintenance.purge(older_than=self.config.inbox_retention)
            except (SQLAlchemyError, OSError, TimeoutError) as error:
                logger.warning("inbox clean-up failed: %s", type(error).__name__)


def _durables(consumers: Consumers | None, config: BridgeConfig) -> tuple[DurableSpec, ...]:
    """Return what these handlers read from, all of them being registered now."""
    if consumers is None:
        return ()
    consumers.check()
    warn_of_unused(consumers, config)
    return consumers.durables(config)


def _check(problem: str | None) -> Check:
    return Check(ok=problem is None, detail=problem)


def _engine_of(sessions: async_sessionmaker[AsyncSession]) -> AsyncEngine:
    engine = sessions.kw.get("bind")
    if not isinstance(engine, AsyncEngine):
        raise ConfigurationError(
            "the session factory has no engine; make it with async_sessionmaker(engine, ...)"
        )
    return engine
