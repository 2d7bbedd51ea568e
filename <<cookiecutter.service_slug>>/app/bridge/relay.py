"""The relay: takes committed events from the outbox and puts them into the stream.

A row is `sent` only after the expected stream acknowledged it. An outage burns nothing: the
relay stops, probes, and goes on where it was. Only what concerns an event itself counts as one
of its attempts; while it waits for the next one, the later events of its resource wait with it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

from nats.errors import Error as NatsError
from sqlalchemy.engine import Row
from sqlalchemy.exc import SQLAlchemyError

from .acks import OUTAGES, AckPublisher, Outcome, Outgoing
from .clock import loop_time
from .connection import Connection, ConnectionEvent
from .envelope import GEM_ID_HEADER, ID_HEADER
from .errors import BridgeError
from .lanes import Lanes
from .metrics import publish_metrics
from .outbox_maintenance import OutboxMaintenance
from .publish_lines import fields, log_sent
from .retry import Backoff
from .settlement import Failure, Retry, Settlement
from .spans import record_published
from .tasks import happens

logger = logging.getLogger(__name__)

IDLE_MIN, IDLE_MAX = 0.05, 1.0  # seconds between two looks at an empty outbox
PROBE_MIN, PROBE_MAX = 0.1, 2.0  # seconds between two tries in an outage
# A claim holds its lanes for this long at most, however slow the way to NATS: it sends for the
# budget, and then waits for the last answers. The rest of the limit is the database's.
PUBLISH_BUDGET = 5.0  # seconds
ROUND_LIMIT = 30.0  # seconds
MAINTENANCE_EVERY = 30.0  # seconds


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """How the relay works: sizes in rows, times in seconds."""

    batch_size: int
    max_attempts: int
    backoff: Backoff
    retention: float
    gem_peer: bool


class Relay:
    """Drains the outbox until it is told to stop. `run` is one task, owned by the bridge."""

    def __init__(
        self,
        lanes: Lanes,
        maintenance: OutboxMaintenance,
        publisher: AckPublisher,
        connection: Connection,
        settings: RelaySettings,
        *,
        routes: Callable[[Sequence[str]], Awaitable[set[str]]],
    ) -> None:
        """`routes` is asked about subjects that no stream took: it tries to make them known to
        the stream and returns those that still are not; it raises when it cannot tell."""
        self._lanes = lanes
        self._maintenance = maintenance
        self._publisher = publisher
        self._connection = connection
        self._settings = settings
        self._routes = routes
        self._id_header = GEM_ID_HEADER if settings.gem_peer else ID_HEADER
        self._work = asyncio.Event()
        self._stopping = asyncio.Event()
        self._unrouted: set[str] = set()
        self._metrics = publish_metrics()
        self._next_maintenance = loop_time() + random.uniform(0, MAINTENANCE_EVERY)
        self._cleaned_up_to = 0
        self.problem: str | None = "not connected to NATS"  # why nothing goes out
        self.paused_since: datetime | None = None  # by an operator, for all replicas
        connection.add_listener(self._on_connection)

    def wake(self) -> None:
        """There is something to do: look now and not at the next poll."""
        self._work.set()

    def stop(self) -> None:
        """Finish the claim in hand, then return from `run`."""
        self._stopping.set()
        self._work.set()

    def _on_connection(self, event: ConnectionEvent) -> None:
        if event in (ConnectionEvent.CONNECTED, ConnectionEvent.REPLACED):
            self.wake()

    async def run(self) -> None:
        """Work until `stop`. Faults of NATS and of the database are waited out."""
        try:
            await self._drain()
        finally:
            self._connection.remove_listener(self._on_connection)
            try:
                await self._lanes.stop()
            except (SQLAlchemyError, OSError, TimeoutError) as error:
                logger.warning("the relay's lease ends by the clock: %s", type(error).__name__)

    async def _drain(self) -> None:
        idle = IDLE_MIN
        outage = PROBE_MIN
        while not self._stopping.is_set():
            self._work.clear()
            handled = await self._guarded_round()
            if self.problem is not None:
                await happens(self._work, outage * random.uniform(0.5, 1.0))
                outage = min(PROBE_MAX, outage * 2)
                continue
            outage = PROBE_MIN
            await self._maintain()
            if handled:
                idle = IDLE_MIN
                continue
            await happens(self._work, idle)
            idle = min(IDLE_MAX, idle * 1.5)

    async def _guarded_round(self) -> int:
        """One round; a fault of the database becomes the relay's `problem`."""
        if not self._connection.connected:
            self._report("not connected to NATS")
            return 0
        try:
            async with asyncio.timeout(ROUND_LIMIT):
                return await self._round()
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            self._report(f"the database does not answer: {type(error).__name__}")
            logger.debug("relay round failed", exc_info=error)
            return 0

    async def _round(self) -> int:
        """Claim, publish, settle. Returns how many rows left the relay's sight."""
        # After an outage, a few rows find out whether it is over.
        limit = 1 if self.problem else self._settings.batch_size
        async with self._lanes.claim(limit) as claim:
            self._note_pause(claim.paused_since)
            if not claim.rows:
                self._report(None)
                return 0
            settlement = Settlement()
            chains = self._chains(claim.rows, settlement)
            await self._publisher.publish(
                [messages for messages, _ in chains], budget=PUBLISH_BUDGET
            )
            faults = self._judge(chains, settlement)
            await claim.settle(settlement)
        self._measure(chains, settlement)
        record_published(message for messages, _ in chains for message in messages)
        log_sent(pair for chain in chains for pair in zip(*chain, strict=True))
        await self._after(faults)
        return (
            len(settlement.sent)
            + len(settlement.retries)
            + len(settlement.failures)
            + len(settlement.held)
        )

    def _chains(
        self, rows: Sequence[Row[Any]], settlement: Settlement
    ) -> list[tuple[list[Outgoing], list[Row[Any]]]]:
        """Group rows by resource, in order; followers of a waiting row are set aside.

        Rows due for another try come first, and need not be the oldest of their resource: a
        failed one that is older may have been given another chance since.
        """
        if any(row.held for row in rows):
            rows = sorted(rows, key=attrgetter("id"))
        chains: dict[str, tuple[list[Outgoing], list[Row[Any]]]] = {}
        for row in rows:
            if row.first_held is not None and row.first_held < row.id:
                settlement.held.append(row.id)
                continue
            chain = chains.get(row.resource)
            if chain is None:
                chain = chains[row.resource] = ([], [])
            chain[0].append(self._outgoing(row))
            chain[1].append(row)
        return list(chains.values())

    def _outgoing(self, row: Row[Any]) -> Outgoing:
        headers = {
            name: str(value)
            for name, value in (row.headers or {}).items()
            if name.lower() != GEM_ID_HEADER
        }
        headers[self._id_header] = row.event_id
        return Outgoing(row.id, row.subject, row.body.encode(), headers)

    def _judge(
        self, chains: list[tuple[list[Outgoing], list[Row[Any]]]], settlement: Settlement
    ) -> _Faults:
        """Turn outcomes into what is written; what is an outage is left as it was."""
        faults = _Faults()
        counted: set[str] = set()
        for messages, rows in chains:
            for message, row in zip(messages, rows, strict=True):
                if message.outcome is Outcome.STORED:
                    settlement.sent.append(row.id)
                    if row.first_held is not None:
                        settlement.released.add(row.resource)
                    continue
                if message.outcome is Outcome.REFUSED or (
                    message.outcome is Outcome.UNROUTED and row.subject in self._unrouted
                ):
                    counted.add(row.subject)
                    self._count_attempt(message, row, settlement)
                    followers = rows[rows.index(row) + 1 :]
                    settlement.held.extend(follower.id for follower in followers)
                elif message.outcome is Outcome.UNROUTED:
                    faults.unrouted.add(row.subject)
                elif message.outcome in OUTAGES:
                    faults.outage = message.error
                break
        self._unrouted -= counted  # asked anew for their next try
        return faults

    def _measure(
        self, chains: list[tuple[list[Outgoing], list[Row[Any]]]], settlement: Settlement
    ) -> None:
        """Tell the metrics about a claim that is settled."""
        now = datetime.now(UTC)
        duplicates = 0
        took: list[float] = []
        ages: list[float] = []
        for messages, rows in chains:
            for message, row in zip(messages, rows, strict=True):
                if message.outcome is not Outcome.STORED:
                    break
                duplicates += message.duplicate
                took.append(message.took)
                ages.append((now - row.enqueued_at).total_seconds())
        metrics = self._metrics
        metrics.publish_seconds.observe(took)
        metrics.delivery_seconds.observe(ages)
        metrics.count("published", len(took) - duplicates)
        metrics.count("duplicate", duplicates)
        metrics.count("refused", len(settlement.retries))
        metrics.count("failed", len(settlement.failures))

    def _count_attempt(self, message: Outgoing, row: Row[Any], settlement: Settlement) -> None:
        attempts = row.attempts + 1
        error = message.error or "refused"
        if attempts >= self._settings.max_attempts:
            settlement.failures.append(Failure(row.id, attempts, error))
            settlement.released.add(row.resource)
            log = fields(message, row, "failed") | {"attempts": attempts}
            logger.error("event failed: %s", error, extra=log)
        else:
            delay = self._settings.backoff.delay(attempts)
            settlement.retries.append(Retry(row.id, attempts, error, delay))
            log = fields(message, row, "refused") | {"attempts": attempts}
            logger.warning("event refused, again in %.1f s: %s", delay, error, extra=log)

    async def _after(self, faults: _Faults) -> None:
        if faults.outage is not None:
            self._metrics.count("unavailable")
            self._report(faults.outage)
        elif faults.unrouted:
            await self._find_routes(faults.unrouted)
        else:
            self._report(None)

    async def _find_routes(self, subjects: set[str]) -> None:
        """No stream took these subjects: is JetStream away, or is it the subjects?

        What the stream still does not know when it has been asked counts against the events in
        the next round; anything else is an outage and counts against nothing.
        """
        try:
            self._unrouted |= await self._routes(sorted(subjects))
        except (BridgeError, NatsError, OSError, TimeoutError) as error:
            self._report(f"no stream takes {', '.join(sorted(subjects))}: {error}")

    def _report(self, problem: str | None) -> None:
        if problem != self.problem:
            if problem is None:
                logger.info("relaying")
            else:
                logger.warning("relaying stopped: %s", problem)
        self.problem = problem

    def _note_pause(self, since: datetime | None) -> None:
        if (since is None) != (self.paused_since is None):
            logger.warning("relaying is %s", "resumed" if since is None else "paused")
        self.paused_since = since

    async def _maintain(self) -> None:
        """Now and then: drop old sent rows, free followers without a head.

        While there is much to drop, a portion after each round keeps pace with the sending.
        """
        if loop_time() < self._next_maintenance:
            return
        try:
            cleaned = await self._maintenance.delete_sent(
                older_than=self._settings.retention, after=self._cleaned_up_to
            )
            self._cleaned_up_to = cleaned.go_on_after
            await self._maintenance.release_orphans()
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            logger.warning("outbox maintenance failed: %s", type(error).__name__)
            self._cleaned_up_to = 0
        if not self._cleaned_up_to:
            self._next_maintenance = loop_time() + MAINTENANCE_EVERY


class _Faults:
    """What one round found that is nobody's event's fault."""

    def __init__(self) -> None:
        self.outage: str | None = None
        self.unrouted: set[str] = set()
