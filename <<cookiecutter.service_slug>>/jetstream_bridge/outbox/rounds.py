"""A relay's rounds: each takes a claim, publishes it, and writes what became of its rows."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from nats.errors import Error as NatsError

from jetstream_bridge.core.delays import Backoff
from jetstream_bridge.core.errors import BridgeError
from jetstream_bridge.events.wire_rules import GEM_ID_HEADER, ID_HEADER
from jetstream_bridge.nats.outgoing import Outgoing
from jetstream_bridge.nats.publishing import AckPublisher
from jetstream_bridge.nats.tracing import record_published
from jetstream_bridge.outbox.chains import Chain, chains_of
from jetstream_bridge.outbox.claims import Claim, Lanes
from jetstream_bridge.outbox.duplicates import Duplicates
from jetstream_bridge.outbox.metrics import measure_claim, publish_metrics
from jetstream_bridge.outbox.outcomes import OutcomeJudge, RoundFaults
from jetstream_bridge.outbox.publish_logs import log_sent
from jetstream_bridge.outbox.settlement import Settlement
from jetstream_bridge.outbox.unconfirmed import UnconfirmedEvents

logger = logging.getLogger(__name__)

# A claim holds its lanes for this long at most, however slow the way to NATS: it sends for the
# budget, and then waits for the last answers. The rest of the limit is the database's.
PUBLISH_BUDGET = 5.0  # seconds
# In that time each resource's first message is sent. The next ones, each after the answer to the
# one before, are sent for as long as this: other lanes wait for the end of the claim.
TURNS_BUDGET = 0.25  # seconds


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """How the relay works: times in seconds."""

    batch_size: int  # rows
    batch_bytes: int  # bodies and headers of a claim; one row of each lane always goes
    max_attempts: int
    backoff: Backoff
    retention: float
    gem_peer: bool


@dataclass(frozen=True, slots=True)
class Round:
    """What came of one round."""

    handled: int = 0  # rows that left the relay's sight
    problem: str | None = None  # why nothing goes out


class RelayRounds:
    """One claim at a time, under a note of its own."""

    def __init__(
        self,
        lanes: Lanes,
        unconfirmed: UnconfirmedEvents,
        publisher: AckPublisher,
        duplicates: Duplicates,
        settings: RelaySettings,
        *,
        routes: Callable[[Sequence[str]], Awaitable[set[str]]],
    ) -> None:
        """`routes` is asked about subjects that no stream took: it tries to make them known to
        the stream and returns those that still are not; it raises when it cannot tell."""
        self.lanes = lanes
        self._unconfirmed = unconfirmed
        self._publisher = publisher
        self._duplicates = duplicates
        self._settings = settings
        self._routes = routes
        self._id_header = GEM_ID_HEADER if settings.gem_peer else ID_HEADER
        self._judge = OutcomeJudge(settings.max_attempts, settings.backoff)
        self._metrics = publish_metrics()
        self.paused_since: datetime | None = None  # by an operator, for all replicas

    async def catch_up(self) -> None:
        """Write what could not be written when it was known; raises what that raises."""
        await self._unconfirmed.catch_up()

    async def finish(self) -> None:
        """Leave nothing behind that another relay would wait for."""
        await self._unconfirmed.forget()
        await self.lanes.stop()

    async def run(self, limit: int) -> Round:
        """Claim up to `limit` rows, publish and settle them. Raises what the database and NATS
        raise; nothing is lost then."""
        await self._unconfirmed.catch_up()
        batch_bytes, holder = self._settings.batch_bytes, self._unconfirmed.holder
        while True:
            async with self.lanes.claim(limit, batch_bytes, holder) as claim:
                self.paused_since = claim.paused_since
                subjects = {str(row.subject) for row in claim.rows}
                may_send = bool(subjects) and self._unconfirmed.allow(subjects, noted=claim.noted)
                sent = await self._send(claim) if may_send else None
            if sent is not None:
                self._unconfirmed.settled()
                return await self._sent(sent)
            if claim.in_doubt:
                if not await self._unconfirmed.resolve():
                    return Round(problem=_LOOKING)
            elif subjects:
                # It is committed, and nothing is claimed meanwhile.
                await self._unconfirmed.note(subjects)
            else:
                return Round()

    async def _send(self, claim: Claim) -> _Sent:
        """Publish the rows of a claim, and write what became of them."""
        settlement = Settlement()
        chains = chains_of(claim.rows, settlement, self._id_header)
        messages = [message for chain in chains for message in chain.messages]
        self._unconfirmed.sending(message.key for message in messages)
        await self._publisher.publish(
            [chain.messages for chain in chains], budget=PUBLISH_BUDGET, turns=TURNS_BUDGET
        )
        dropped = await self._duplicates.dropped(messages, self._unconfirmed)
        faults = self._judge.settle(chains, settlement, dropped)
        unknown = [message.key for message in messages if message.may_be_stored]
        self._unconfirmed.answered(settlement.sent, unknown)
        await claim.settle(settlement)
        return _Sent(chains, messages, settlement, faults)

    async def _sent(self, sent: _Sent) -> Round:
        """Tell what became of a claim that is settled."""
        settlement = sent.settlement
        measure_claim(self._metrics, sent.chains, settlement)
        record_published(sent.messages)
        log_sent(pair for chain in sent.chains for pair in chain)
        problem = await self._problem(sent.faults)
        handled = len(settlement.sent) + len(settlement.held)
        handled += len(settlement.retries) + len(settlement.failures)
        return Round(handled, problem)

    async def _problem(self, faults: RoundFaults) -> str | None:
        if faults.outage is not None:
            self._metrics.count("unavailable")
            return faults.outage
        return await self._find_routes(faults.unrouted) if faults.unrouted else None

    async def _find_routes(self, subjects: set[str]) -> str | None:
        """No stream took these subjects: is JetStream away, or is it the subjects?

        What the stream still does not know when it has been asked counts against the events in
        the next round; anything else is an outage and counts against nothing.
        """
        try:
            self._judge.unrouted |= await self._routes(sorted(subjects))
        except (BridgeError, NatsError, OSError, TimeoutError) as error:
            return f"no stream takes {', '.join(sorted(subjects))}: {error}"
        return None


_LOOKING = "looking through the stream for what a relay may have sent before it stopped"


@dataclass(frozen=True, slots=True)
class _Sent:
    """One claim, and what became of it."""

    chains: list[Chain]
    messages: list[Outgoing]  # of all chains
    settlement: Settlement
    faults: RoundFaults
