"""Telling somebody about errors, and declaring some of them harmless."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge.core.errors import RegistrationError
from jetstream_bridge.events.event import Event
from jetstream_bridge.inbox.middleware.chain import CallNext, CallNextBatch

logger = logging.getLogger(__name__)

OnError = Callable[[Event[Any], Exception], Awaitable[None] | None]


class ErrorHandling:
    """Calls `on_error(event, error)` when a handler fails; the error goes on all the same.

    Errors of the classes in `swallow` do not go on: what the handler wrote is rolled back to
    where it began, and the event counts as processed. `on_error` may be a coroutine function.
    What it returns is ignored, and what it raises is logged. It can be called more than once for
    one delivery: when a transaction fails, its events run again, the failing one by itself.
    """

    def __init__(self, on_error: OnError, *, swallow: tuple[type[Exception], ...] = ()) -> None:
        if not callable(on_error):
            raise RegistrationError(f"on_error={on_error!r} cannot be called; give a function")
        for kind in swallow:
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise RegistrationError(f"swallow={kind!r} is no class of errors")
        self._on_error = on_error
        self._swallow = tuple(swallow)

    async def __call__(self, event: Event[Any], call_next: CallNext, session: AsyncSession) -> None:
        try:
            if self._swallow:
                async with session.begin_nested():
                    await call_next(event)
            else:
                await call_next(event)
        except Exception as error:
            await self._tell(event, error)
            if not isinstance(error, self._swallow):
                raise

    async def on_batch(
        self, events: list[Event[Any]], call_next: CallNextBatch, session: AsyncSession
    ) -> None:
        """A list that fails is halved until one event is alone; only then is it that one's error.

        So nothing is told, and nothing kept back, of a list of several.
        """
        if len(events) > 1:
            await call_next(events)
            return

        async def call_one(event: Event[Any] | None = None, /) -> None:
            await call_next(events if event is None else [event])

        await self(events[0], call_one, session)

    async def _tell(self, event: Event[Any], error: Exception) -> None:
        try:
            answer = self._on_error(event, error)
            if inspect.isawaitable(answer):
                await answer
        except Exception:  # a callback's own fault is no fault of the event
            logger.exception("on_error failed for event %s", event.event_id)
