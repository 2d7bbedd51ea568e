"""How a delivery ends: acknowledged, tried again, put aside. The only place that answers NATS.

An acknowledgement follows a commit. A lost one means a second delivery, which the inbox drops;
without the inbox it is confirmed by the server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from nats.errors import Error as NatsError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlmodel.ext.asyncio.session import AsyncSession

from .batch import Handled
from .dead_letters import DeadLetters, error_text
from .deliveries import Delivery
from .errors import PublishRefusedError
from .inbox import Inbox, InboxStatus
from .middleware.chain import Middlewares
from .middleware.ended import Ended, Outcome
from .middleware.logs import Logging
from .reading import Verdict

logger = logging.getLogger(__name__)

ACK_TIMEOUT = 5.0  # seconds for a confirmed acknowledgement


class Outcomes:
    """Ends deliveries of one durable."""

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        inbox: Inbox,
        dead_letters: DeadLetters | None,
        *,
        durable: str,
        use_inbox: bool,
        middlewares: Middlewares,
    ) -> None:
        """`inbox` also parks events when there are no `dead_letters`."""
        self._sessions = sessions
        self._inbox = inbox
        self._dead_letters = dead_letters
        self._durable = durable
        self._use_inbox = use_inbox
        self._middlewares = middlewares

    async def handled(self, handled: Handled) -> None:
        """The transaction is committed: acknowledge what it did and what it knew already."""
        for delivery in handled.processed:
            self._tell(delivery, "processed", logging.INFO, "event processed")
        for delivery in handled.duplicates:
            self._tell(delivery, "duplicate", logging.INFO, "event known already")
        deliveries = [*handled.processed, *handled.duplicates]
        if self._use_inbox:
            for delivery in deliveries:
                await self._ack(delivery)
        else:
            await asyncio.gather(*map(self._ack_confirmed, deliveries))

    async def ignored(self, delivery: Delivery) -> None:
        """No handler wants this event, and that is fine."""
        self._tell(delivery, "ignored", logging.INFO, "event has no handler here")
        await self._ack(delivery)

    async def failed(self, delivery: Delivery, error: Exception, delay: float) -> None:
        """The event is tried again in `delay` seconds."""
        self._tell(
            delivery,
            "retried",
            logging.WARNING,
            f"event failed, again in {delay:.1f} s: {error!r}",
            error=error,
            delay=delay,
        )
        await self.nak(delivery, delay=delay)
        if self._use_inbox:
            try:
                await self._record(delivery, InboxStatus.FAILED, error_text(error))
            except (SQLAlchemyError, OSError) as fault:
                # The record is for people; the retry does not depend on it.
                logger.warning("the failure of %s is not recorded: %s", delivery.key, fault)

    async def begun(self, delivery: Delivery) -> None:
        """Note that the last try of the event begins: a process that dies in it cannot say so."""
        if self._use_inbox:
            await self._record(delivery, InboxStatus.PROCESSING, None)

    async def not_begun(self, delivery: Delivery) -> None:
        """Take that back: another worker is the active one, and the try is left to it."""
        if self._use_inbox:
            await self._record(delivery, InboxStatus.RECEIVED, None)

    async def was_begun(self, delivery: Delivery, *, tries: int) -> bool:
        """Whether the last of the event's `tries` was begun; unknown without the inbox."""
        if not self._use_inbox:
            return True
        async with self._sessions() as session:
            return await self._inbox.was_begun(session, delivery.received, tries=tries)

    async def dead_letter(self, delivery: Delivery, verdict: Verdict) -> None:
        """Put the event aside for good: its letter is stored before it leaves the stream.

        Raises when that fails; then nothing was acknowledged.
        """
        if await self._was_processed(delivery):
            return
        error = error_text(verdict.error)
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
        if self._use_inbox:
            await self._record(delivery, InboxStatus.DEAD_LETTERED, error)
        self._tell(
            delivery,
            "dead_lettered",
            logging.ERROR,
            f"event dead-lettered ({verdict.reason}): {error}",
            error=verdict.error,
        )
        await self._ack(delivery)

    async def _park(self, delivery: Delivery, verdict: Verdict, error: str) -> None:
        text = f"{verdict.reason}: {error}"
        parked = await self._record(
            delivery, InboxStatus.DEAD_LETTERED, text, body=delivery.msg.data
        )
        if not parked:
            await self._ack(delivery)
            return
        self._tell(
            delivery,
            "dead_lettered",
            logging.ERROR,
            f"event parked in the inbox table: {text}",
            error=verdict.error,
        )
        await self._answer(delivery.msg.term(), delivery, "terminated")

    async def _was_processed(self, delivery: Delivery) -> bool:
        """It had taken effect, and only its acknowledgement was lost; this is another one."""
        if not self._use_inbox:
            return False
        async with self._sessions() as session:
            processed = await self._inbox.is_processed(session, delivery.key)
        if processed:
            await self._ack(delivery)
        return processed

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
        if not observers:
            if logger.isEnabledFor(level):
                logger.log(level, "%s", line, extra=_fields(delivery, outcome))
            return
        if not any(isinstance(observer, Logging) for observer in observers):
            logger.log(level, "%s", line, extra=_fields(delivery, outcome))
        end = _ended(delivery, outcome, error, delay)
        for observer in observers:
            try:
                observer.ended(end)
            except Exception:  # an observer's own fault is no fault of the event
                logger.exception("%r failed over event %s", observer, delivery.key)

    async def _record(
        self,
        delivery: Delivery,
        status: InboxStatus,
        error: str | None,
        *,
        body: bytes | None = None,
    ) -> bool:
        async with self._sessions() as session:
            recorded = await self._inbox.record(
                session, delivery.received, status, error, body=body
            )
            await session.commit()
        return recorded

    async def nak(self, delivery: Delivery, *, delay: float) -> None:
        """Give the event back, to be delivered again `delay` seconds from now."""
        delivery.given_back = True
        await self._answer(
            delivery.msg.nak(delay=delay if delay > 0 else None), delivery, "given back"
        )

    async def in_progress(self, delivery: Delivery) -> None:
        """Tell the server that the event is still being worked on."""
        await self._answer(delivery.msg.in_progress(), delivery, "kept")

    async def _ack(self, delivery: Delivery) -> None:
        await self._answer(delivery.msg.ack(), delivery, "acknowledged")

    async def _ack_confirmed(self, delivery: Delivery) -> None:
        await self._answer(delivery.msg.ack_sync(timeout=ACK_TIMEOUT), delivery, "acknowledged")

    async def _answer(self, answer: Awaitable[object], delivery: Delivery, what: str) -> None:
        """An answer that does not arrive means another delivery, never a loss."""
        try:
            await answer
        except (NatsError, OSError, TimeoutError) as error:
            logger.warning(
                "event %s could not be %s: %s", delivery.key, what, error or type(error).__name__
            )


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
