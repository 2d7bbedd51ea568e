"""What becomes of a claim's rows by what the stream answered.

Only what concerns the event itself counts as an attempt. An outage leaves its rows as they were.
"""

from __future__ import annotations

import logging
from itertools import islice

from jetstream_bridge.core.delays import Backoff
from jetstream_bridge.nats.outgoing import OUTAGES, Outcome, Outgoing
from jetstream_bridge.outbox.chains import LEAST_READY, Chain, keep_pace
from jetstream_bridge.outbox.publish_logs import fields
from jetstream_bridge.outbox.rows import OutboxRow
from jetstream_bridge.outbox.settlement import Failure, Retry, Settlement

logger = logging.getLogger(__name__)


class RoundFaults:
    """What one round found that is nobody's event's fault."""

    def __init__(self) -> None:
        self.outage: str | None = None
        self.unrouted: set[str] = set()


class OutcomeJudge:
    """Turns outcomes of publishing into what is written."""

    def __init__(self, max_attempts: int, backoff: Backoff) -> None:
        self._max_attempts = max_attempts
        self._backoff = backoff
        self.unrouted: set[str] = set()  # subjects that the stream does not take, when asked last

    def settle(self, chains: list[Chain], settlement: Settlement, dropped: set[int]) -> RoundFaults:
        """Turn outcomes into what is written; what is an outage is left as it was.

        `dropped` are rows that the stream took for another event: trying again cures nothing.
        """
        faults = RoundFaults()
        counted: set[str] = set()
        for chain in chains:
            stored = chain.stored
            self._take_stored(chain, stored, settlement, dropped)
            message = chain.messages[stored] if stored < len(chain.messages) else None
            outcome = message.outcome if message is not None else None
            if message is None or outcome is None:
                keep_pace(chain, stored, settlement)
                continue
            row = chain.rows[stored]
            if outcome is Outcome.REFUSED or (
                outcome is Outcome.UNROUTED and row.subject in self.unrouted
            ):
                counted.add(row.subject)
                self._count_attempt(message, row, settlement)
                settlement.held.extend(follower.id for follower in chain.rows[stored + 1 :])
            elif outcome is Outcome.UNROUTED:
                faults.unrouted.add(row.subject)
            elif outcome in OUTAGES:
                faults.outage = message.error
        self.unrouted -= counted  # asked anew for their next try
        return faults

    def _take_stored(
        self, chain: Chain, stored: int, settlement: Settlement, dropped: set[int]
    ) -> None:
        if not dropped:
            settlement.sent += [row.id for row in chain.rows[:stored]]
            return
        for message, row in islice(chain, stored):
            if row.id in dropped:
                self._fail(message, row, settlement)
            else:
                settlement.sent.append(row.id)

    def _count_attempt(self, message: Outgoing, row: OutboxRow, settlement: Settlement) -> None:
        attempts = row.attempts + 1
        if attempts >= self._max_attempts:
            self._fail(message, row, settlement)
            return
        error = message.error or "refused"
        delay = self._backoff.delay(attempts)
        settlement.retries.append(Retry(row.id, attempts, error, delay))
        log = fields(message, row, "refused") | {"attempts": attempts}
        logger.warning("event refused, again in %.1f s: %s", delay, error, extra=log)

    def _fail(self, message: Outgoing, row: OutboxRow, settlement: Settlement) -> None:
        attempts, error = row.attempts + 1, message.error or "refused"
        settlement.failures.append(Failure(row.id, attempts, error))
        settlement.release(row, LEAST_READY)
        log = fields(message, row, "failed") | {"attempts": attempts}
        logger.error("event failed: %s", error, extra=log)
