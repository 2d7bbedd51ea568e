"""How much waits, for Prometheus: read when somebody asks, and then at most every five seconds.

However often this process is scraped, and by however many, the database gets three questions and
JetStream two or three requests in five seconds. What could not be read is NaN and not an old
number. An answer never waits longer than `ANSWER_WITHIN`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable
from functools import cache
from typing import TypeVar

from nats.errors import Error as NatsError
from prometheus_client import REGISTRY, CollectorRegistry, Gauge
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.database_faults import DATABASE_ERRORS
from jetstream_bridge.core.errors import BridgeError, NotConnectedError
from jetstream_bridge.nats.connection import Connection
from jetstream_bridge.operations.dead_letter_queue import DeadLetterQueue
from jetstream_bridge.operations.inspection import Inspection
from jetstream_bridge.operations.open_transactions import dead_rows, oldest_transaction
from jetstream_bridge.operations.statistics import Backlog, outbox_backlog

logger = logging.getLogger(__name__)

EVERY = 5.0  # seconds between two readings
SHARE = 10.0  # a slow reading is followed by a pause of so many times its length
ANSWER_WITHIN = 2.0  # seconds that a scrape waits for a reading
READ_LIMIT = 10.0  # seconds after which a reading is given up
_CLOSE_LIMIT = 2.0  # seconds

T = TypeVar("T")

_FAULTS: tuple[type[Exception], ...] = (BridgeError, NatsError, *DATABASE_ERRORS)


class _Gauges:
    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, documentation: str) -> Gauge:
            return Gauge(name, documentation, registry=registry)

        self.pending = gauge("bridge_outbox_pending", "Events that wait to be sent")
        self.failed = gauge("bridge_outbox_failed", "Events that were given up")
        self.oldest = gauge(
            "bridge_outbox_oldest_pending_seconds", "Age of the oldest event that waits to be sent"
        )
        self.lag = gauge(
            "bridge_consumer_lag", "Events not delivered to this service yet, or not acknowledged"
        )
        self.letters = gauge("bridge_dlq_messages", "Dead letters of this service")
        self.transaction = gauge(
            "bridge_database_oldest_transaction_seconds",
            "Age of the database's oldest open transaction; 0 on SQLite",
        )
        self.dead_rows = gauge(
            "bridge_database_dead_rows",
            "Row versions of outbox and inbox that wait for a vacuum; 0 on SQLite",
        )
        self.connected = gauge("bridge_nats_connected", "1 while connected to NATS, else 0")


@cache
def _gauges(registry: CollectorRegistry) -> _Gauges:
    return _Gauges(registry)


class QueueMetrics:
    """Keeps the gauges of one process true."""

    def __init__(
        self,
        engine: AsyncEngine,
        connection: Connection,
        inspection: Inspection,
        letters: DeadLetterQueue,
        *,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._engine = engine
        self._connection = connection
        self._inspection = inspection
        self._letters = letters
        self._gauges = _gauges(registry)
        self._reading: asyncio.Task[None] | None = None
        self._next = loop_time()

    async def refresh(self) -> None:
        """Make the gauges true, as of five seconds ago or later; return within two seconds."""
        self._gauges.connected.set(self._connection.connected)
        reading = self._reading
        if reading is None or (reading.done() and loop_time() >= self._next):
            self._next = loop_time() + EVERY
            reading = self._reading = asyncio.create_task(self._read(), name="queue metrics")
        _, late = await asyncio.wait([reading], timeout=ANSWER_WITHIN)
        if late:
            self._set_backlog(None)
            self._set_jetstream(None, None)
            self._set_database(math.nan, math.nan)

    async def close(self) -> None:
        """Give up a reading that is under way."""
        if self._reading is not None and not self._reading.done():
            self._reading.cancel()
            await asyncio.wait([self._reading], timeout=_CLOSE_LIMIT)

    async def _read(self) -> None:
        began = loop_time()
        await self._read_all()
        took = loop_time() - began
        self._next = max(self._next, loop_time() + SHARE * took)

    async def _read_all(self) -> None:
        backlog, lag, letters, transaction, dead = await asyncio.gather(
            _answer(outbox_backlog(self._engine)),
            _answer(self._inspection.lag()),
            _answer(self._letters.count()),
            _answer(self._transaction_age()),
            _answer(self._dead_rows()),
        )
        self._set_backlog(backlog)
        self._set_jetstream(lag, letters)
        self._set_database(transaction, dead)

    async def _transaction_age(self) -> float:
        oldest = await oldest_transaction(self._engine)
        return 0.0 if oldest is None else oldest.seconds

    async def _dead_rows(self) -> float:
        return await dead_rows(self._engine) or 0.0

    def _set_database(self, transaction: float | None, dead: float | None) -> None:
        self._gauges.transaction.set(math.nan if transaction is None else transaction)
        self._gauges.dead_rows.set(math.nan if dead is None else dead)

    def _set_backlog(self, backlog: Backlog | None) -> None:
        if backlog is None:
            pending = failed = oldest = math.nan
        else:
            pending, failed = backlog.pending, backlog.failed
            oldest = backlog.oldest_pending_seconds or 0.0
        self._gauges.pending.set(pending)
        self._gauges.failed.set(failed)
        self._gauges.oldest.set(oldest)

    def _set_jetstream(self, lag: int | None, letters: int | None) -> None:
        self._gauges.lag.set(math.nan if lag is None else lag)
        self._gauges.letters.set(math.nan if letters is None else letters)


async def _answer(question: Awaitable[T]) -> T | None:
    try:
        async with asyncio.timeout(READ_LIMIT):
            return await question
    except NotConnectedError:
        return None  # which is known, and has a gauge of its own
    except _FAULTS as error:
        logger.warning("a queue could not be measured: %s", error or type(error).__name__)
        return None
