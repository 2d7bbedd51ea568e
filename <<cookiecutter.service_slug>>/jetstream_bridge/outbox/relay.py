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
from datetime import datetime

from nats.errors import Error as NatsError

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.database_faults import DATABASE_ERRORS
from jetstream_bridge.core.delays import Backoff
from jetstream_bridge.core.errors import BridgeError
from jetstream_bridge.core.tasks import happens
from jetstream_bridge.events.wire_rules import GEM_ID_HEADER, ID_HEADER
from jetstream_bridge.nats.connection import Connection, ConnectionEvent
from jetstream_bridge.nats.publishing import AckPublisher
from jetstream_bridge.nats.tracing import record_published
from jetstream_bridge.outbox.chains import Chain, chains_of
from jetstream_bridge.outbox.claims import Claim, Lanes
from jetstream_bridge.outbox.duplicates import Duplicates
from jetstream_bridge.outbox.maintenance import OutboxMaintenance
from jetstream_bridge.outbox.metrics import measure_claim, publish_metrics
from jetstream_bridge.outbox.outcomes import OutcomeJudge, RoundFaults
from jetstream_bridge.outbox.publish_logs import log_sent
from jetstream_bridge.outbox.settlement import Settlement
from jetstream_bridge.outbox.unconfirmed import UnconfirmedEvents
from jetstream_bridge.outbox.upkeep import RelayMaintenance

logger = logging.getLogger(__name__)

IDLE_MIN, IDLE_MAX = 0.05, 1.0  # seconds between two looks at an empty outbox
PROBE_MIN, PROBE_MAX = 0.1, 2.0  # seconds between two tries in an outage
# A claim holds its lanes for this long at most, however slow the way to NATS: it sends for the
# budget, and then waits for the last answers. The rest of the limit is the database's.
PUBLISH_BUDGET = 5.0  # seconds
# In that time each resource's first message is sent. The next ones, each after the answer to the
# one before, are sent for as long as this: other lanes wait for the end of the claim.
TURNS_BUDGET = 0.25  # seconds
ROUND_LIMIT = 30.0  # seconds


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """How the relay works: times in seconds."""

    batch_size: int  # rows
    batch_bytes: int  # bodies and headers of a claim; one row of each lane always goes
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
        duplicates: Duplicates,
        unconfirmed: UnconfirmedEvents,
        *,
        routes: Callable[[Sequence[str]], Awaitable[set[str]]],
    ) -> None:
        """`routes` is asked about subjects that no stream took: it tries to make them known to
        the stream and returns those that still are not; it raises when it cannot tell."""
        self._lanes = lanes
        self._maintenance = RelayMaintenance(maintenance, lanes, retention=settings.retention)
        self._publisher = publisher
        self._connection = connection
        self._settings = settings
        self._duplicates = duplicates
        self._unconfirmed = unconfirmed
        self._routes = routes
        self._id_header = GEM_ID_HEADER if settings.gem_peer else ID_HEADER
        self._work = asyncio.Event()
        self._hope = asyncio.Event()  # that an outage is over
        self._stopping = asyncio.Event()
        self._judge = OutcomeJudge(settings.max_attempts, settings.backoff)
        self._metrics = publish_metrics()
        self.problem: str | None = "not connected to NATS"  # why nothing goes out
        self.paused_since: datetime | None = None  # by an operator, for all replicas
        self.looked_at = loop_time()  # when its last round began

    def wake(self) -> None:
        """There is something to do: look now and not at the next poll.

        In an outage it waits for its turn all the same: every commit wakes the relay.
        """
        self._work.set()

    def hope(self) -> None:
        """What the relay waited for may be there now: look at once, also in an outage."""
        self._hope.set()
        self._work.set()

    def stop(self) -> None:
        """Finish the claim in hand, then return from `run`."""
        self._stopping.set()
        self.hope()

    def _on_connection(self, event: ConnectionEvent) -> None:
        if event in (ConnectionEvent.CONNECTED, ConnectionEvent.REPLACED):
            self.hope()

    async def run(self) -> None:
        """Work until `stop`. Faults of NATS and of the database are waited out."""
        self._connection.add_listener(self._on_connection)
        try:
            await self._drain()
        finally:
            self._connection.remove_listener(self._on_connection)
            try:
                await self._unconfirmed.forget()
                await self._lanes.stop()
            except DATABASE_ERRORS as error:
                logger.warning("the relay's lease ends by the clock: %s", type(error).__name__)

    async def _drain(self) -> None:
        idle = IDLE_MIN
        outage = PROBE_MIN
        while not self._stopping.is_set():
            self.looked_at = loop_time()
            self._work.clear()
            self._hope.clear()
            handled = await self._guarded_round()
            if self.problem is not None:
                await happens(self._hope, outage * random.uniform(0.5, 1.0))
                outage = min(PROBE_MAX, outage * 2)
                continue
            outage = PROBE_MIN
            await self._maintenance.run()
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
        except DATABASE_ERRORS as error:
            self._report(f"the database does not answer: {type(error).__name__}")
            logger.debug("relay round failed", exc_info=error)
            return 0
        except (BridgeError, NatsError) as error:
            self._report(f"nobody can tell what the stream has: {error}")
            return 0
        except Exception as error:  # ours; the task goes on, and readiness shows it
            self._report(f"the relay failed: {error!a:.200}")
            logger.exception("a round of the relay failed")
            return 0

    async def _round(self) -> int:
        """Claim, publish, settle. Returns how many rows left the relay's sight."""
        await self._unconfirmed.catch_up()
        # After an outage, a few rows find out whether it is over.
        limit = 1 if self.problem else self._settings.batch_size
        batch_bytes, holder = self._settings.batch_bytes, self._unconfirmed.holder
        while True:
            async with self._lanes.claim(limit, batch_bytes, holder) as claim:
                self._note_pause(claim.paused_since)
                subjects = {str(row.subject) for row in claim.rows}
                may_send = bool(subjects) and self._unconfirmed.allow(subjects, noted=claim.noted)
                sent = await self._send(claim) if may_send else None
            if sent is not None:
                self._unconfirmed.settled()
                return await self._sent(sent)
            if claim.in_doubt:
                if not await self._resolved():
                    return 0
            elif subjects:
                await self._unconfirmed.note(
                    subjects
                )  # committed, and nothing is claimed meanwhile
            else:
                self._report(None)
                return 0

    async def _send(self, claim: Claim) -> _Sent:
        """Publish the rows of a claim, and write what became of them."""
        settlement = Settlement()
        chains = chains_of(claim.rows, settlement, self._id_header)
        self._unconfirmed.sending(row.id for chain in chains for row in chain.rows)
        await self._publisher.publish(
            [chain.messages for chain in chains], budget=PUBLISH_BUDGET, turns=TURNS_BUDGET
        )
        dropped = await self._duplicates.dropped(
            (message for chain in chains for message in chain.messages), self._unconfirmed
        )
        faults = self._judge.settle(chains, settlement, dropped)
        unknown = [row.id for chain in chains for message, row in chain if message.may_be_stored]
        self._unconfirmed.answered(settlement.sent, unknown)
        await claim.settle(settlement)
        return _Sent(chains, settlement, faults)

    async def _sent(self, sent: _Sent) -> int:
        """Tell what became of a claim that is settled."""
        chains, settlement = sent.chains, sent.settlement
        measure_claim(self._metrics, chains, settlement)
        record_published(message for chain in chains for message in chain.messages)
        log_sent(pair for chain in chains for pair in chain)
        await self._after(sent.faults)
        return (
            len(settlement.sent)
            + len(settlement.retries)
            + len(settlement.failures)
            + len(settlement.held)
        )

    async def _resolved(self) -> bool:
        """A relay published what nobody knows about: look for it before anything is sent."""
        if await self._unconfirmed.resolve():
            return True
        self._report("looking through the stream for what a relay may have sent before it stopped")
        return False

    async def _after(self, faults: RoundFaults) -> None:
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
            self._judge.unrouted |= await self._routes(sorted(subjects))
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


@dataclass(frozen=True, slots=True)
class _Sent:
    """One claim, and what became of it."""

    chains: list[Chain]
    settlement: Settlement
    faults: RoundFaults
