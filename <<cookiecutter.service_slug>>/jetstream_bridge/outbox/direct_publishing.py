"""Publishing without the outbox: at once, and again while the fault is not the event's.

Each try carries the same id, so a try whose outcome is unknown makes no second message inside the
stream's duplicate window. Of one resource the next event goes out when the one before it is
stored or refused for good. All ends within a limit that is known beforehand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nats.errors import Error as NatsError

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.delays import RetryStrategy
from jetstream_bridge.core.errors import (
    BridgeError,
    PublishError,
    PublishRefusedError,
    PublishUnavailableError,
)
from jetstream_bridge.nats.outgoing import OUTAGES, Outcome, Outgoing
from jetstream_bridge.nats.publishing import AckPublisher
from jetstream_bridge.nats.tracing import record_published
from jetstream_bridge.outbox.duplicates import Duplicates, StoredMatch
from jetstream_bridge.outbox.metrics import publish_metrics
from jetstream_bridge.outbox.publish_result import PublishResult
from jetstream_bridge.outbox.sessions import NewEvent
from jetstream_bridge.topology.subject_index import SubjectIndex

LIMIT_FOR = 1000  # events that the time limit of one publish is meant for


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectSettings:
    """How events are sent at once. Times are seconds."""

    id_header: str
    retry: RetryStrategy
    timeout: float  # for one acknowledgement
    limit: float  # for all tries together


class DirectPublisher:
    """Sends events and says what became of each."""

    def __init__(
        self,
        acks: AckPublisher,
        routes: SubjectIndex,
        duplicates: Duplicates,
        settings: DirectSettings,
    ) -> None:
        self._acks = acks
        self._duplicates = duplicates
        self._routes = routes
        self._settings = settings

    async def send(
        self, events: Sequence[NewEvent], *, retry: RetryStrategy | None = None
    ) -> list[PublishResult]:
        """Send `events`, many at once; return a result for each, in their order.

        Takes at most the limit, and as much again for each further 1,000 events.
        """
        strategy = retry or self._settings.retry
        started = loop_time()
        deadline = started + self._settings.limit * (1 + len(events) // LIMIT_FOR)
        sending = _Sending(events, self._settings.id_header)
        attempt = 0
        while sending.open:
            attempt += 1
            await self._try(sending, deadline)
            if not sending.open:
                break
            delay = strategy.delay(attempt)
            if delay is None or loop_time() + delay + self._settings.timeout > deadline:
                break
            await asyncio.sleep(delay)
        if repeated := sending.repeated():
            sending.compared(await self._duplicates.look(repeated, bodies=False))
        sending.measure()
        return sending.results(loop_time() - started)

    async def _try(self, sending: _Sending, deadline: float) -> None:
        """Send what is open. What was refused, or has a subject now, holds up nothing behind it."""
        asked: set[str] = set()
        while sending.open:
            budget = max(0.0, deadline - self._settings.timeout - loop_time())
            await self._acks.publish(sending.chains(), budget=budget)
            refused, outage, unrouted = sending.settle()
            fresh = unrouted - asked
            if outage or not (refused or fresh):
                return
            if fresh and not await self._open_routes(sending, fresh):
                return
            asked |= fresh

    async def _open_routes(self, sending: _Sending, subjects: set[str]) -> bool:
        """No stream took these subjects: add them, or give up what nobody will ever take."""
        try:
            unknown = await self._routes.open(sorted(subjects))
        except (BridgeError, NatsError, OSError, TimeoutError):
            return False  # JetStream is away, and nobody can tell
        sending.refuse(unknown)
        return True


class _Sending:
    """The events of one call: what is still to be sent, in order for each resource."""

    def __init__(self, events: Sequence[NewEvent], id_header: str) -> None:
        self._events = events
        self._messages = [
            Outgoing(n, new.subject, new.body.encode(), {**new.headers, id_header: new.event_id})
            for n, new in enumerate(events)
        ]
        self._tries = [0] * len(events)
        self._done: list[PublishResult | None] = [None] * len(events)
        self._maybe_stored: set[int] = set()
        chains: dict[str | int, list[Outgoing]] = {}
        for number, message in enumerate(self._messages):
            # Events without a resource have no order to keep.
            chains.setdefault(events[number].resource or number, []).append(message)
        self.open = list(chains.values())

    def chains(self) -> list[list[Outgoing]]:
        """Return what to send now; an earlier try's outcome is forgotten, its error is not."""
        for chain in self.open:
            for message in chain:
                message.outcome = None
        return self.open

    def settle(self) -> tuple[bool, bool, set[str]]:
        """Take what is final out; say whether some were refused, whether there is an outage, and
        which subjects no stream took."""
        refused = outage = False
        unrouted: set[str] = set()
        for chain in self.open:
            while chain and chain[0].outcome is not None:
                message = chain[0]
                self._tries[message.key] += 1
                if message.outcome is Outcome.STORED:
                    self._stored(message)
                elif message.outcome is Outcome.REFUSED:
                    refused = True
                    self._refused(message)
                else:
                    outage = outage or message.outcome in OUTAGES
                    if message.outcome is Outcome.UNROUTED:
                        unrouted.add(message.subject)
                    elif message.outcome is Outcome.UNKNOWN:
                        self._maybe_stored.add(message.key)
                    break
                chain.pop(0)
        self.open = [chain for chain in self.open if chain]
        return refused, outage, unrouted

    def refuse(self, subjects: set[str]) -> None:
        """No stream takes these subjects, and this service may not change that."""
        for chain in self.open:
            while chain and chain[0].subject in subjects:
                self._refused(chain.pop(0))
        self.open = [chain for chain in self.open if chain]

    def repeated(self) -> list[Outgoing]:
        """Return what the stream took for repetitions of something that was sent before."""
        return [
            message
            for message, result in zip(self._messages, self._done, strict=True)
            if result is not None and result.duplicate
        ]

    def compared(self, found: Mapping[int, StoredMatch]) -> None:
        """Refuse what was dropped for another event with its id."""
        for message in self._messages:
            if found.get(message.key) is StoredMatch.OTHER:
                message.outcome = Outcome.REFUSED
                self._refused(message)

    def measure(self) -> None:
        """Tell metrics and traces how it ended, before `results` is asked for."""
        metrics = publish_metrics()
        done = [result for result in self._done if result is not None]
        stored = [message for message in self._messages if message.outcome is Outcome.STORED]
        metrics.publish_seconds.observe(message.took for message in stored)
        duplicates = sum(result.duplicate for result in done)
        metrics.count("published", len(stored) - duplicates)
        metrics.count("duplicate", duplicates)
        metrics.count("failed", len(done) - len(stored))
        metrics.count("unavailable", sum(map(len, self.open)))
        record_published(self._messages)

    def _stored(self, message: Outgoing) -> None:
        new = self._events[message.key]
        # After a try of unknown outcome the duplicate is this very event.
        duplicate = message.duplicate and message.key not in self._maybe_stored
        self._done[message.key] = PublishResult(
            success=True, event_id=new.event_id, subject=new.subject, duplicate=duplicate
        )

    def _refused(self, message: Outgoing) -> None:
        new = self._events[message.key]
        reason = message.error or f"no stream listens on {new.subject}"
        error = PublishRefusedError(
            f"the event {new.event_id} was refused: {reason}",
            event_id=new.event_id,
            subject=new.subject,
            tries=self._tries[message.key],
        )
        self._fail(message, error)

    def _fail(self, message: Outgoing, error: PublishError) -> None:
        self._done[message.key] = PublishResult(
            success=False, event_id=error.event_id, subject=error.subject, error=error
        )

    def results(self, seconds: float) -> list[PublishResult]:
        """Return the results; what is still open was given up after `seconds`."""
        for chain in self.open:
            for message in chain:
                self._fail(message, self._unavailable(message, seconds))
        return [result for result in self._done if result is not None]

    def _unavailable(self, message: Outgoing, seconds: float) -> PublishUnavailableError:
        new, tries = self._events[message.key], self._tries[message.key]
        if tries:
            after = f"after {tries} {'try' if tries == 1 else 'tries'} in {seconds:.1f} s"
            text = f"{after}: {message.error}"
        else:
            text = f"within {seconds:.1f} s: it was not its turn yet"
        maybe = message.key in self._maybe_stored
        return PublishUnavailableError(
            f"the event {new.event_id} was not {'confirmed' if maybe else 'stored'} {text}",
            event_id=new.event_id,
            subject=new.subject,
            tries=tries,
        )
