"""How often the events of one durable were run, and how that ended. This is what counts as a try.

The server counts deliveries: also those that a stop, an outage, a lost lease or a neighbour's
crash ended. A try is a run that failed by itself. A run that ends its process cannot say so, so an
event whose deliveries its failures do not explain runs by itself, with its start noted before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import case, delete, text, update
from sqlalchemy.sql.elements import ColumnElement
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge.core.tries import APPENDED, entry
from jetstream_bridge.inbox.received import Received
from jetstream_bridge.inbox.row_states import kept
from jetstream_bridge.inbox.store import Inbox
from jetstream_bridge.inbox.tables import InboxEvent, InboxStatus


@dataclass(frozen=True, slots=True)
class RunHistory:
    """What is known of an event's earlier runs."""

    failures: int = 0  # runs that failed by themselves
    unfinished: int = 0  # runs by itself that never ended
    error: str | None = None  # of the last failure


class RunCounts:
    """The runs of one durable's events. Every method works in the caller's transaction."""

    def __init__(self, consumer: str, inbox: Inbox) -> None:
        self._consumer = consumer
        self._inbox = inbox

    async def history(self, session: AsyncSession, received: Received) -> RunHistory:
        """Return what is known of `received`; of one that was replayed, nothing."""
        found = await session.exec(
            select(
                kept(InboxEvent.failures, received),
                kept(InboxEvent.unfinished, received),
                col(InboxEvent.last_error),
            ).where(self._is(received))
        )
        row = found.first()
        return RunHistory() if row is None else RunHistory(*row)

    async def failed(
        self, session: AsyncSession, received: Received, error: str, *, alone: bool
    ) -> int | None:
        """Count a run that failed, and return how many have; None if the event is processed.

        `alone`: its start was noted, and this is its end.
        """
        if not await self._inbox.record(session, received, InboxStatus.FAILED, error):
            return None
        told = entry(error, delivery=received.deliveries)
        counted = (
            update(InboxEvent)
            .where(self._is(received))
            .values(
                failures=InboxEvent.failures + 1,
                unfinished=_ended(alone),
                tries=text(APPENDED[session.get_bind().dialect.name]).bindparams(entry=told),
            )
            .returning(col(InboxEvent.failures))
        )
        return (await (await session.connection()).execute(counted)).scalar_one()

    async def begun(self, session: AsyncSession, received: Received, error: str | None) -> None:
        """Note that a run by itself begins; `error` is that of its last failure."""
        if await self._inbox.record(session, received, InboxStatus.PROCESSING, error):
            await self._change(session, received, unfinished=InboxEvent.unfinished + 1)

    async def not_begun(self, session: AsyncSession, received: Received) -> None:
        """Take that back: the run was stopped, and not by the event."""
        status = case(
            (col(InboxEvent.failures) > 0, InboxStatus.FAILED), else_=InboxStatus.RECEIVED
        )
        await self._change(session, received, unfinished=_ended(True), status=status)

    async def forget(self, session: AsyncSession, batch: Sequence[Received]) -> None:
        """Without the inbox nothing is kept of what was handled, nor of its failures before."""
        await session.exec(
            delete(InboxEvent).where(
                col(InboxEvent.consumer) == self._consumer,
                col(InboxEvent.event_id).in_([received.key for received in batch]),
                col(InboxEvent.status).in_(
                    [InboxStatus.FAILED, InboxStatus.PROCESSING, InboxStatus.RECEIVED]
                ),
            )
        )

    async def _change(self, session: AsyncSession, received: Received, **values: object) -> None:
        changed = (
            update(InboxEvent)
            .where(self._is(received), col(InboxEvent.status) != InboxStatus.PROCESSED)
            .values(**values)
            .execution_options(synchronize_session=False)
        )
        await session.exec(changed)

    def _is(self, received: Received) -> ColumnElement[bool]:
        mine = col(InboxEvent.consumer) == self._consumer
        return mine & (col(InboxEvent.event_id) == received.key)


def _ended(alone: bool) -> ColumnElement[int]:
    count = col(InboxEvent.unfinished)
    return case((count > 0, count - 1), else_=0) if alone else count + 0
