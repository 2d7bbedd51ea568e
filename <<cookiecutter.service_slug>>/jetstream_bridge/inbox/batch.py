"""One transaction of the worker: inbox rows, the handlers' writes and their events, all or none.

Events are acknowledged only after the commit. If anything fails, the transaction is rolled back
and its events run again in smaller portions, so that one bad event harms no other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge.core.clock import running_clock
from jetstream_bridge.core.errors import HandlerExitError
from jetstream_bridge.core.leases import Fence
from jetstream_bridge.events.dead_letter import event_of
from jetstream_bridge.events.event import Event
from jetstream_bridge.inbox.batch_sizing import LONGEST_TRANSACTION
from jetstream_bridge.inbox.delivery import STREAM_ORDER, Delivery
from jetstream_bridge.inbox.dependencies import PublisherFactory, Resources, Supplies
from jetstream_bridge.inbox.handler_watch import HandlerRun, HandlerWatch
from jetstream_bridge.inbox.handlers import Handler
from jetstream_bridge.inbox.middleware.chain import Middlewares
from jetstream_bridge.inbox.store import ClaimResult, Inbox
from jetstream_bridge.inbox.transaction_guard import TransactionGuard


class HandlerRaised(Exception):  # noqa: N818 - tells where an error comes from, and is none itself
    """`error` comes from a handler, or from writing what handlers had put into the session."""

    def __init__(
        self, error: Exception, *, written: bool = False, delivery: Delivery | None = None
    ) -> None:
        """`delivery`: the event in whose handler it was raised, where that is known."""
        super().__init__(repr(error))
        self.error = error
        self.delivery = delivery
        self.written = written  # the statement was the database's business, not the handler's code


@dataclass(slots=True)
class TransactionResult:
    """What a committed transaction did: handled events, and those it knew already."""

    processed: list[Delivery] = field(default_factory=list)
    duplicates: list[Delivery] = field(default_factory=list)
    seconds: float = 0.0  # in handlers
    rest: list[Delivery] = field(default_factory=list)  # not begun: the transaction had run long


@dataclass(frozen=True, slots=True)
class _Running:
    """What the handlers of one transaction share."""

    session: AsyncSession
    guard: TransactionGuard
    watched: HandlerRun
    clock: Callable[[], float]


class HandlerTransactions:
    """Runs deliveries through their handlers, one transaction for each call."""

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        publisher: PublisherFactory,
        *,
        resources: Resources,
        middlewares: Middlewares,
        inbox: Inbox | None,
        fence: Fence | None,
        watch: HandlerWatch,
        limit: float | None,
    ) -> None:
        """`limit`: seconds for one run of a handler whose registration sets no other."""
        self._sessions = sessions
        self._publisher = publisher
        self._resources = resources
        self._middlewares = middlewares
        self._inbox = inbox
        self._fence = fence
        self._limit = limit
        self.watch = watch

    async def run(self, batch: Sequence[Delivery]) -> TransactionResult:
        """Handle `batch` and commit. Whatever is raised, nothing has taken effect then."""
        async with self._sessions() as session:
            guard = TransactionGuard(session, self._fence)
            try:
                return await self._run(batch, session, guard)
            finally:
                guard.lift()

    async def _run(
        self, batch: Sequence[Delivery], session: AsyncSession, guard: TransactionGuard
    ) -> TransactionResult:
        if self._fence is not None and self._inbox is None:
            # Nothing may be written here at all: then this is the only time to ask.
            await (await session.connection()).run_sync(self._fence.check)
        handled = TransactionResult()
        claimed = await self._claim(session, batch)
        started = time.perf_counter()
        fresh: list[Delivery] = []
        for delivery in batch:
            known = claimed is not None and delivery.place not in claimed.fresh
            (handled.duplicates if known else fresh).append(delivery)
        clock, task = running_clock(), asyncio.current_task()
        assert task is not None
        running = _Running(session, guard, self.watch.run(task), clock)
        ends = clock() + LONGEST_TRANSACTION
        for portion in _portions(fresh):
            await self._handle(portion, running)
            handled.processed += portion
            if clock() > ends and (claimed is None or claimed.releasable):
                handled.rest = fresh[len(handled.processed) :]
                break
        handled.seconds = time.perf_counter() - started
        if handled.rest and self._inbox is not None:
            await self._inbox.release(session, [delivery.received for delivery in handled.rest])
        try:
            await session.flush()
        except Exception as error:
            raise HandlerRaised(error, written=True) from error
        await guard.commit(claimed.transaction if claimed is not None else None)
        return handled

    async def _handle(self, portion: Sequence[Delivery], running: _Running) -> None:
        delivery, guard = portion[0], running.guard
        guilty = delivery if len(portion) == 1 else None  # of a list nobody knows which it is
        started = time.perf_counter()
        try:
            try:
                await self._call(portion, running)
            finally:
                each = (time.perf_counter() - started) / len(portion)
                for one in portion:
                    one.seconds = each
            if guard.suspects:
                await guard.check(f"the handler of {delivery.event_type!r}")
        except Exception as error:
            raise HandlerRaised(guard.cause_of(error), delivery=guilty) from error
        except asyncio.CancelledError:
            raise  # `apart` tells a stop from what the handler did to itself
        except BaseException as error:  # or it would end the process, with all that it holds
            raise HandlerRaised(_exit(delivery, error), delivery=guilty) from error

    async def _claim(self, session: AsyncSession, batch: Sequence[Delivery]) -> ClaimResult | None:
        if self._inbox is None:
            return None
        return await self._inbox.claim(session, [delivery.received for delivery in batch])

    async def _call(self, portion: Sequence[Delivery], running: _Running) -> None:
        delivery, handler = portion[0], portion[0].handler
        assert handler is not None, "only events with a handler are put in a batch"
        events = [_event(handler, one) for one in portion]
        event = events[0] if handler.options.batch is None else events
        supplies = Supplies(event, running.session, self._publisher, self._resources)
        chain = self._middlewares.chain(handler)
        limit = self._middlewares.limit(handler, self._limit)
        with running.watched.over(delivery, limit, running.clock()):
            if chain is None:
                await handler.function(**supplies.arguments(handler.wants, handler.module))
            else:
                await chain.run(event, supplies)


def _portions(fresh: list[Delivery]) -> Iterable[Sequence[Delivery]]:
    """One event for each call, or all of them: whoever takes a list shares with nobody else."""
    handler = fresh[0].handler if fresh else None
    if handler is not None and handler.options.batch is not None:
        return [sorted(fresh, key=STREAM_ORDER)]
    return ([delivery] for delivery in fresh)


def _event(handler: Handler, delivery: Delivery) -> Event[Any]:
    envelope = delivery.envelope
    assert envelope is not None
    if delivery.event is not None and isinstance(delivery.payload, BaseModel):
        # Tried before: what the handler may have changed in it is not the event's.
        delivery.payload = handler.payload(envelope)
    event = delivery.event = event_of(envelope, delivery.metadata, delivery.payload, delivery.key)
    return event


def read(delivery: Delivery) -> None:
    """Read what the handler is to get: the service's own code, and judged like the handler."""
    try:
        delivery.read()
    except Exception as error:
        raise HandlerRaised(error, delivery=delivery) from error
    except BaseException as error:  # nobody cancels code that awaits nothing
        raise HandlerRaised(_exit(delivery, error), delivery=delivery) from error


def _exit(delivery: Delivery, error: BaseException) -> HandlerExitError:
    raised = HandlerExitError(
        f"the handler of {delivery.event_type!r} raised {error!r}; raise an Exception for a "
        "failure, or return"
    )
    raised.__cause__ = error
    return raised
