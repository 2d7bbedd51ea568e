"""How a delivery ends: acknowledged, tried again, put aside. The only place that answers NATS.

An acknowledgement follows a commit. A lost one means a second delivery, which the inbox drops;
without the inbox it is confirmed by the server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import replace

from nats.errors import Error as NatsError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge.core.database_faults import DATABASE_ERRORS, Fault, fault_of
from jetstream_bridge.core.error_report import report, traceback_of
from jetstream_bridge.core.errors import PublishRefusedError
from jetstream_bridge.core.log_lines import written_together
from jetstream_bridge.inbox.batch import TransactionResult
from jetstream_bridge.inbox.dead_lettering import DeadLetterWriter
from jetstream_bridge.inbox.delivery import Delivery
from jetstream_bridge.inbox.middleware.chain import Middlewares
from jetstream_bridge.inbox.middleware.ended import Ended, Outcome
from jetstream_bridge.inbox.reading import Rejection
from jetstream_bridge.inbox.received import Received
from jetstream_bridge.inbox.replies import Replies
from jetstream_bridge.inbox.run_counts import RunCounts, RunHistory
from jetstream_bridge.inbox.store import Inbox, KnownMessage
from jetstream_bridge.inbox.tables import InboxStatus

logger = logging.getLogger(__name__)

ACK_TIMEOUT = 5.0  # seconds for a confirmed acknowledgement
NOTE_LIMIT = 2.0  # seconds to note that a run was stopped


class Outcomes:
    """Ends deliveries of one durable."""

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        inbox: Inbox,
        dead_letters: DeadLetterWriter | None,
        *,
        durable: str,
        use_inbox: bool,
        middlewares: Middlewares,
        line: Replies,
    ) -> None:
        """`inbox` also parks events when there are no `dead_letters`."""
        self.line = line
        self._sessions = sessions
        self._inbox = inbox
        self._runs = RunCounts(durable, inbox)
        self._dead_letters = dead_letters
        self._durable = durable
        self._use_inbox = use_inbox
        self._middlewares = middlewares

    async def handled(self, handled: TransactionResult) -> None:
        """The transaction is committed: acknowledge what it did and what it knew already."""
        with written_together():
            for delivery in handled.processed:
                self._tell(delivery, "processed", logging.INFO, "event processed")
            for delivery in handled.duplicates:
                self._tell(delivery, "duplicate", logging.INFO, "event known already")
        deliveries = [*handled.processed, *handled.duplicates]
        if self._use_inbox:
            await self._ack(deliveries)
        else:
            await self._forget_failures([d for d in deliveries if d.tries > 1 or d.begun])
            await asyncio.gather(*map(self._ack_confirmed, deliveries))

    async def _forget_failures(self, deliveries: Sequence[Delivery]) -> None:
        """These are handled now; their failures before are settled."""
        try:
            if deliveries:
                await self._forget(deliveries)
        except DATABASE_ERRORS as error:
            logger.warning("failures of events that are handled stay listed: %s", report(error))

    async def _forget(self, deliveries: Sequence[Delivery]) -> None:
        async with self._sessions() as session:
            await self._runs.forget(session, [d.received for d in deliveries])
            await session.commit()

    async def ignored(self, delivery: Delivery) -> None:
        """No handler wants this event, and that is fine."""
        self._tell(delivery, "ignored", logging.INFO, "event has no handler here")
        await self._ack([delivery])

    async def failed(self, delivery: Delivery, error: Exception, delay: float) -> None:
        """The event is tried again in `delay` seconds."""
        self._tell(
            delivery,
            "retried",
            logging.WARNING,
            f"event failed, again in {delay:.1f} s: {report(error)}",
            error=error,
            delay=delay,
        )
        await self.nak(delivery, delay=delay)

    async def history(self, delivery: Delivery) -> RunHistory:
        """What is known of the event's earlier runs."""
        async with self._sessions() as session:
            return await self._runs.history(session, delivery.received)

    async def count_failure(self, delivery: Delivery, error: Exception) -> int | None:
        """Note that a run failed by itself, and return how many have; None: processed elsewhere."""
        async with self._sessions() as session:
            failures = await self._runs.failed(
                session, delivery.received, report(error), alone=delivery.begun
            )
            await session.commit()
        delivery.begun = False
        return failures

    async def try_claim(self, delivery: Delivery) -> None:
        """Raise what a claim of the event would, such as the lock of a worker that is frozen."""
        if self._use_inbox:
            async with self._sessions() as session:
                await self._inbox.claim(session, [delivery.received])
                await session.rollback()

    async def begun(self, delivery: Delivery, history: RunHistory) -> None:
        """Note that a run by itself begins: a process that dies in it cannot say so."""
        if delivery.begun:
            return  # and it has not ended: the database was away, or busy
        async with self._sessions() as session:
            await self._runs.begun(session, delivery.received, history.error)
            await session.commit()
        delivery.begun = True

    async def not_begun(self, delivery: Delivery) -> None:
        """Take that back: the run was stopped, and the try is left to the next worker."""
        try:
            async with asyncio.timeout(NOTE_LIMIT), self._sessions() as session:
                await self._runs.not_begun(session, delivery.received)
                await session.commit()
            delivery.begun = False
        except DATABASE_ERRORS as error:
            logger.warning(
                "that event %s was stopped is not recorded, and counts as one of the runs that "
                "never ended: %s",
                delivery.key,
                report(error),
            )

    async def dead_letter(self, delivery: Delivery, verdict: Rejection) -> None:
        """Put the event aside for good: its letter is stored before it leaves the stream.

        Raises when that fails; then nothing was acknowledged.
        """
        known = await self._known(delivery)
        if known is KnownMessage.SAME or (
            known is KnownMessage.OTHER and verdict.reason == "no_handler"
        ):
            await self._duplicate(delivery)
            return
        error = report(verdict.error)
        if known is KnownMessage.OTHER:
            error = f"{error}; its id is that of another message, which has taken effect"
        if self._dead_letters is None:
            await self._park(delivery, verdict, error)
            return
        try:
            await self._dead_letters.write(delivery, verdict, self._durable)
        except PublishRefusedError as refused:
            # The letter is larger than the server takes; its place is the database then.
            await self._park(delivery, verdict, f"{error}; {refused}")
            return
        # After the letter: a row that said so before it could make its next delivery a
        # duplicate, and nothing would be left of the event.
        await self._settle(delivery, error)
        self._tell(
            delivery,
            "dead_lettered",
            logging.ERROR,
            f"event dead-lettered ({verdict.reason}): {error}",
            error=verdict.error,
        )
        await self._ack([delivery])

    async def _settle(self, delivery: Delivery, error: str) -> None:
        """The letter is stored: say so in the event's row, or keep none of it.

        An event that no row can hold ends with its letter.
        """
        try:
            if self._use_inbox:
                await self._record(delivery.received, InboxStatus.DEAD_LETTERED, error)
            else:
                await self._forget([delivery])
        except Exception as fault:
            if fault_of(fault) is not Fault.EVENT:
                raise
            logger.error("the inbox cannot hold event %s: %s", delivery.key, report(fault))

    async def _park(self, delivery: Delivery, verdict: Rejection, error: str) -> None:
        text, body = f"{verdict.reason}: {error}", delivery.msg.data
        received, status = delivery.received, InboxStatus.DEAD_LETTERED
        if not await self._record(received, status, text, body=body):
            # Its id has a row already, which says `processed` of another message.
            received = replace(received, key=_own_key(delivery))
            await self._record(received, status, text, body=body)
        self._tell(
            delivery,
            "dead_lettered",
            logging.ERROR,
            f"event parked in the inbox table: {text}",
            error=verdict.error,
        )
        await self._answer(self.line.term(delivery), delivery, "terminated")

    async def _known(self, delivery: Delivery) -> KnownMessage | None:
        """Whether a message with this id has taken effect: this very one, or another."""
        if not self._use_inbox:
            return None
        async with self._sessions() as session:
            return await self._inbox.processed(session, delivery.received)

    async def _duplicate(self, delivery: Delivery) -> None:
        """It had taken effect, and only its acknowledgement was lost; this is another one."""
        self._tell(delivery, "duplicate", logging.INFO, "event known already")
        await self._ack([delivery])

    def _tell(
        self,
        delivery: Delivery,
        outcome: Outcome,
        level: int,
        line: str,
        *,
        error: Exception | None = None,
        delay: float | None = None,
    ) -> None:
        """Say how a delivery ended, now that it is settled: in the log, and to the observers."""
        observers = self._middlewares.observers(delivery.handler)
        if not self._middlewares.tells(delivery.handler) and logger.isEnabledFor(level):
            trace = None if error is None else traceback_of(error)
            logger.log(level, "%s", line, extra=_fields(delivery, outcome), exc_info=trace)
        if not observers:
            return
        end = _ended(delivery, outcome, error, delay)
        for observer in observers:
            try:
                observer.ended(end)
            except Exception:  # an observer's own fault is no fault of the event
                logger.exception("%r failed over event %s", observer, delivery.key)

    async def _record(
        self,
        received: Received,
        status: InboxStatus,
        error: str | None,
        *,
        body: bytes | None = None,
    ) -> bool:
        async with self._sessions() as session:
            recorded = await self._inbox.record(session, received, status, error, body=body)
            await session.commit()
        return recorded

    async def nak(self, delivery: Delivery, *, delay: float) -> None:
        """Give the event back, to be delivered again `delay` seconds from now."""
        delivery.given_back = True
        await self._answer(self.line.nak(delivery, delay=delay), delivery, "given back")

    async def in_progress(self, delivery: Delivery) -> None:
        """Tell the server that the event is still being worked on."""
        await self._answer(self.line.in_progress(delivery), delivery, "kept")

    async def _ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge all of them at once; what does not arrive means other deliveries."""
        try:
            await self.line.ack(deliveries)
        except (NatsError, OSError, TimeoutError) as error:
            more = f" and {len(deliveries) - 1} others" if len(deliveries) > 1 else ""
            why = error or type(error).__name__
            logger.warning("event %s%s could not be acknowledged: %s", deliveries[0].key, more, why)

    async def _ack_confirmed(self, delivery: Delivery) -> None:
        await self._answer(self.line.ack_confirmed(delivery, ACK_TIMEOUT), delivery, "acknowledged")

    async def _answer(self, answer: Awaitable[object], delivery: Delivery, what: str) -> None:
        """An answer that does not arrive means another delivery, never a loss."""
        try:
            await answer
        except (NatsError, OSError, TimeoutError) as error:
            logger.warning(
                "event %s could not be %s: %s", delivery.key, what, error or type(error).__name__
            )


def _own_key(delivery: Delivery) -> str:
    """A name for a message whose id is another's: its place, as for one without an id."""
    return f"seq:{delivery.metadata.place}"


def _fields(delivery: Delivery, outcome: str) -> dict[str, object]:
    envelope = delivery.envelope
    return {
        "event_id": delivery.key,
        "event_type": delivery.event_type,
        "resource": delivery.resource,
        "trace_id": envelope.trace_id if envelope is not None else None,
        "deliveries": delivery.tries,
        "outcome": outcome,
    }


def _ended(
    delivery: Delivery, outcome: Outcome, error: Exception | None, delay: float | None
) -> Ended:
    envelope, handler = delivery.envelope, delivery.handler
    return Ended(
        outcome=outcome,
        event_id=delivery.key,
        event_type=delivery.event_type,
        pattern=handler.pattern_of(envelope) if envelope and handler else "other",
        resource=delivery.resource,
        trace_id=envelope.trace_id if envelope is not None else None,
        deliveries=delivery.tries,
        occurred_at=envelope.occurred_at if envelope is not None else None,
        event=delivery.event,
        seconds=delivery.seconds,
        error=error,
        delay=delay,
    )
