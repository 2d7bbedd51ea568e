"""How the worker of one durable is put together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.core.database_faults import DATABASE_ERRORS
from jetstream_bridge.core.errors import RegistrationError
from jetstream_bridge.core.leases import Fence, LeaseHolder
from jetstream_bridge.inbox.batch import HandlerTransactions
from jetstream_bridge.inbox.concurrency_limits import ConcurrencyLimits
from jetstream_bridge.inbox.dead_letter_handling import DeadLetterOutcomes
from jetstream_bridge.inbox.dead_lettering import DeadLetterWriter
from jetstream_bridge.inbox.dependencies import PublisherFactory, Resources
from jetstream_bridge.inbox.durable import Durable
from jetstream_bridge.inbox.exclusive_worker import ExclusiveWorker
from jetstream_bridge.inbox.handler_watch import HandlerWatch
from jetstream_bridge.inbox.isolation import HandlerIsolation
from jetstream_bridge.inbox.outage import Outage, PendingMigrations
from jetstream_bridge.inbox.outcomes import Outcomes
from jetstream_bridge.inbox.outstanding import DurableView
from jetstream_bridge.inbox.positions import statuses
from jetstream_bridge.inbox.reading import DeadLetterReader, EventReader, Reader
from jetstream_bridge.inbox.received import Place
from jetstream_bridge.inbox.registry import Consumers
from jetstream_bridge.inbox.replies import Replies
from jetstream_bridge.inbox.retry_policy import RetryPolicy
from jetstream_bridge.inbox.store import Inbox
from jetstream_bridge.inbox.tables import InboxStatus
from jetstream_bridge.inbox.worker import Worker
from jetstream_bridge.nats.connection import Connection
from jetstream_bridge.nats.management import StreamApi
from jetstream_bridge.nats.publishing import AckPublisher
from jetstream_bridge.topology.durable_names import DEAD_LETTERS, DurableSpec
from jetstream_bridge.topology.provisioning import Topology

logger = logging.getLogger(__name__)

STATUS_LIMIT = 3.0  # seconds for the inbox to say what it knows


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFactory:
    """Makes the workers of one service, which share all of this."""

    config: BridgeConfig
    connection: Connection
    topology: Topology
    acks: AckPublisher
    engine: AsyncEngine
    sessions: async_sessionmaker[AsyncSession]
    publisher: PublisherFactory
    consumers: Consumers
    resources: Resources  # what handlers may ask for by type beside the bridge's own
    pending: PendingMigrations | None  # names the migrations that the database lacks
    isolation: HandlerIsolation = field(default_factory=HandlerIsolation)

    def worker_of(self, spec: DurableSpec) -> ExclusiveWorker:
        """Return what runs the worker of `spec`: always, or while it has the lease."""
        lease = None
        if self.config.worker_exclusive:
            lease = LeaseHolder(self.engine, f"worker {spec.name}")
        return ExclusiveWorker(lambda fence: self._worker(spec, fence), lease)

    def _worker(self, spec: DurableSpec, fence: Fence | None) -> Worker:
        config, consumers = self.config, self.consumers
        inbox, reader = Inbox(spec.name), self._reader(spec)
        return Worker(
            self._durable(spec),
            config,
            self.connection,
            reader,
            HandlerTransactions(
                self.sessions,
                self.publisher,
                resources=self.resources,
                middlewares=consumers.middlewares,
                inbox=inbox if config.use_inbox else None,
                fence=fence,
                watch=HandlerWatch(config.worker_concurrency),
                limit=config.handler_timeout,
            ),
            self._outcomes(spec, inbox),
            RetryPolicy(config, consumers.retry),
            outage=Outage(self.engine, self.pending),
            isolation=self.isolation,
            concurrency_limits=ConcurrencyLimits() if consumers.limited(spec.source) else None,
            largest_list=consumers.largest_batch(spec.source),
            view=self._view(spec, reader),
            statuses=partial(self._statuses, spec.name),
            alone=fence is not None,
        )

    def _durable(self, spec: DurableSpec) -> Durable:
        async def ensure() -> None:
            await self.topology.ensure()
            await self.topology.ensure_consumer(spec.source)

        return Durable(
            spec,
            self.config.stream,
            ensure,
            made=lambda: self.topology.identity(spec.source),
        )

    def _view(self, spec: DurableSpec, reader: Reader) -> DurableView | None:
        """Letters have no order among each other."""
        if spec.source == DEAD_LETTERS:
            return None
        api, topology = StreamApi(self.connection), self.topology
        return DurableView(api, self.config.stream, spec, reader, lambda: topology.is_work_queue)

    async def _statuses(
        self, durable: str, places: Collection[Place]
    ) -> Mapping[Place, InboxStatus]:
        """What the inbox knows; nothing where the database does not answer."""
        try:
            async with asyncio.timeout(STATUS_LIMIT):
                return await statuses(self.engine, durable, self.config.stream, places)
        except DATABASE_ERRORS as error:
            logger.debug("what was handled is unknown: %s", type(error).__name__)
            return {}

    def _reader(self, spec: DurableSpec) -> Reader:
        handler = self.consumers.on_letters
        if spec.source == DEAD_LETTERS and handler is not None:
            return DeadLetterReader(handler)
        return EventReader(self.consumers, spec.source, future=self.config.future_schema)

    def _outcomes(self, spec: DurableSpec, inbox: Inbox) -> Outcomes:
        config = self.config
        kind = DeadLetterOutcomes if spec.source == DEAD_LETTERS else Outcomes
        return kind(
            self.sessions,
            inbox,
            DeadLetterWriter(self.acks, config.names.dead_letter) if config.use_dlq else None,
            durable=spec.name,
            use_inbox=config.use_inbox,
            middlewares=self.consumers.middlewares,
            line=Replies(),
        )


def checked_resources(consumers: Consumers, resources: Resources) -> Resources:
    """Return the resources; raise `RegistrationError` where one that is asked for is missing."""
    missing = [kind.__qualname__ for kind in consumers.wanted if kind not in resources]
    if missing:
        raise RegistrationError(
            f"handlers or middlewares ask for {', '.join(missing)}, and no such resource is open; "
            "give the bridge `resources`, with an object for each type"
        )
    return resources


def warn_of_unused(consumers: Consumers, config: BridgeConfig) -> None:
    """Log which options of registrations have no effect under these settings."""
    if consumers.on_letters is not None and not config.use_dlq:
        logger.warning(
            "%s handles dead letters, and there are none with USE_DLQ=false: events are parked in "
            "the inbox table instead; set USE_DLQ=true",
            consumers.on_letters.place,
        )
    for handler in consumers:
        for option, setting, most in (
            ("concurrency", "WORKER_CONCURRENCY", config.worker_concurrency),
            ("batch_size", "WORKER_BATCH_SIZE", config.worker_batch_size),
        ):
            wanted = getattr(handler.options, option)
            if wanted is not None and wanted > most:
                logger.warning(
                    "%s says %s=%d, and %s is %d, which is the limit of the whole worker; raise "
                    "the setting, or lower the option",
                    handler.place,
                    option,
                    wanted,
                    setting,
                    most,
                )
