"""How the worker of one durable is put together."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlmodel.ext.asyncio.session import AsyncSession

from .acks import AckPublisher
from .batch import Transactions
from .config import BridgeConfig
from .connection import Connection
from .consumer import Durable, Worker
from .dead_letters import DeadLetters
from .dependencies import PublisherFactory
from .durable_spec import DEAD_LETTERS, DurableSpec
from .inbox import Inbox
from .leases import LeaseHolder
from .letters import LetterOutcomes
from .outcomes import Outcomes
from .reading import EventReader, LetterReader, Reader
from .registry import Consumers
from .reign import Reign
from .slots import Slots
from .topology import Topology
from .tries import Tries

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Makes the workers of one service, which share all of this."""

    config: BridgeConfig
    connection: Connection
    topology: Topology
    acks: AckPublisher
    engine: AsyncEngine
    sessions: async_sessionmaker[AsyncSession]
    publisher: PublisherFactory
    consumers: Consumers

    def reign(self, spec: DurableSpec) -> Reign:
        """Return what runs the worker of `spec`: always, or while it has the lease."""
        lease = None
        if self.config.worker_exclusive:
            lease = LeaseHolder(self.engine, f"worker {spec.name}")
        return Reign(lambda: self._worker(spec, lease), lease)

    def _worker(self, spec: DurableSpec, lease: LeaseHolder | None) -> Worker:
        config, consumers = self.config, self.consumers
        inbox = Inbox(spec.name)
        return Worker(
            self._durable(spec),
            config,
            self.connection,
            self.sessions,
            self._reader(spec),
            Transactions(
                self.sessions,
                self.publisher,
                middlewares=consumers.middlewares,
                inbox=inbox if config.use_inbox else None,
                lease=lease,
            ),
            self._outcomes(spec, inbox),
            Tries(config, consumers.retry),
            Slots() if consumers.limited(spec.source) else None,
        )

    def _durable(self, spec: DurableSpec) -> Durable:
        async def ensure() -> None:
            await self.topology.ensure()
            await self.topology.ensure_consumer(spec.source)

        async def ack_floor() -> int:
            return await self.topology.ack_floor(spec.source)

        return Durable(spec, self.config.stream, ensure, ack_floor)

    def _reader(self, spec: DurableSpec) -> Reader:
        handler = self.consumers.on_letters
        if spec.source == DEAD_LETTERS and handler is not None:
            return LetterReader(handler)
        return EventReader(self.consumers, spec.source, future=self.config.future_schema)

    def _outcomes(self, spec: DurableSpec, inbox: Inbox) -> Outcomes:
        config = self.config
        kind = LetterOutcomes if spec.source == DEAD_LETTERS else Outcomes
        return kind(
            self.sessions,
            inbox,
            DeadLetters(self.acks, config.names.dead_letter) if config.use_dlq else None,
            durable=spec.name,
            use_inbox=config.use_inbox,
            middlewares=self.consumers.middlewares,
        )


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
