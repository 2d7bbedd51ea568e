"""One transaction of the worker: inbox rows, the handlers' writes and their events, all or none.

Events are acknowledged only after the commit. If anything fails, the transaction is rolled back
and each event gets one of its own, so that one bad event harms no other.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import Session, SessionTransaction
from sqlmodel.ext.asyncio.session import AsyncSession

from .deliveries import Delivery
from .dependencies import PublisherFactory, Supplies
from .errors import TransactionControlError
from .inbox import Inbox
from .leases import LeaseHolder
from .letter import event_of
from .middleware.chain import Middlewares


class LeaseLostError(Exception):
    """Another worker has taken over; what was handled is rolled back."""


@dataclass(slots=True)
class Handled:
    """What a committed transaction did: handled events, and those it knew already."""

    processed: list[Delivery] = field(default_factory=list)
    duplicates: list[Delivery] = field(default_factory=list)
    seconds: float = 0.0  # in handlers


class Transactions:
    """Runs deliveries through their handlers, one transaction for each call."""

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        publisher: PublisherFactory,
        *,
        middlewares: Middlewares,
        inbox: Inbox | None,
        lease: LeaseHolder | None,
    ) -> None:
        self._sessions = sessions
        self._publisher = publisher
        self._middlewares = middlewares
        self._inbox = inbox
        self._lease = lease

    async def run(self, batch: Sequence[Delivery]) -> Handled:
        """Handle `batch` and commit. Whatever is raised, nothing has taken effect then."""
        handled = Handled()
        async with self._sessions() as session:
            if self._lease is not None and not await self._lease.guard(session):
                raise LeaseLostError(f"the lease {self._lease.name!r} is held by another worker")
            fresh = await self._claim(session, batch)
            guard = _CommitGuard(session.sync_session)
            started = time.perf_counter()
            for delivery in batch:
                if fresh is not None and delivery.seq not in fresh:
                    handled.duplicates.append(delivery)
                    continue
                call = self._timed if self._observed(delivery) else self._call
                await call(delivery, session)
                guard.check(delivery)
                handled.processed.append(delivery)
            handled.seconds = time.perf_counter() - started
            guard.lift()
            await session.commit()
        return handled

    def _observed(self, delivery: Delivery) -> bool:
        return bool(self._middlewares.observers(delivery.handler))

    async def _claim(self, session: AsyncSession, batch: Sequence[Delivery]) -> set[int] | None:
        if self._inbox is None:
            return None
        return await self._inbox.claim(session, [delivery.received for delivery in batch])

    async def _call(self, delivery: Delivery, session: AsyncSession) -> None:
        handler, envelope = delivery.handler, delivery.envelope
        assert handler is not None, "only events with a handler are put in a batch"
        assert envelope is not None
        event = delivery.event = event_of(
            envelope, delivery.metadata, delivery.payload, delivery.key
        )
        supplies = Supplies(event, session, self._publisher)
        chain = self._middlewares.chain(handler)
        if chain is None:
            await handler.function(**supplies.arguments(handler.wants, handler.module))
        else:
            await chain.run(event, supplies)

    async def _timed(self, delivery: Delivery, session: AsyncSession) -> None:
        started = time.perf_counter()
        try:
            await self._call(delivery, session)
        finally:
            delivery.seconds = time.perf_counter() - started


class _CommitGuard:
    """Keeps handlers from ending the transaction that they share with the inbox.

    A handler that committed would also commit the inbox rows of events not handled yet, and
    these would then be taken for handled. Savepoints are theirs to use.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._rolled_back = False
        sqlalchemy_event.listen(session, "before_commit", self._refuse)
        sqlalchemy_event.listen(session, "after_soft_rollback", self._note)

    def _refuse(self, session: Session) -> None:
        if not session.in_nested_transaction():
            raise TransactionControlError(
                "a handler called commit(): the worker commits, after it; "
                "use `async with session.begin_nested()` for a part that may fail"
            )

    def _note(self, session: Session, previous: SessionTransaction) -> None:
        self._rolled_back = self._rolled_back or not previous.nested

    def check(self, delivery: Delivery) -> None:
        if self._rolled_back:
            raise TransactionControlError(
                f"the handler of {delivery.event_type!r} called rollback(): raise an error "
                "instead, and the worker rolls back"
            )

    def lift(self) -> None:
        sqlalchemy_event.remove(self._session, "before_commit", self._refuse)
        sqlalchemy_event.remove(self._session, "after_soft_rollback", self._note)
