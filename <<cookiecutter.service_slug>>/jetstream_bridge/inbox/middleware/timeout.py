"""A time limit for a handler."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from jetstream_bridge.core.durations import humanize, seconds
from jetstream_bridge.core.errors import HandlerTimeoutError, RegistrationError
from jetstream_bridge.events.event import Event
from jetstream_bridge.inbox.middleware.chain import CallNext, CallNextBatch


class Timeout:
    """Cancels a handler that takes longer than `limit`, for instance `"10s"`; it is tried again.

    The worker rolls the transaction back, whatever the handler was doing in it, and goes on with
    another session. The limit may be longer than ACK_WAIT: a held event is kept alive. It takes
    the place of HANDLER_TIMEOUT, also where it is longer.
    """

    limits_handlers = True

    def __init__(self, limit: str | float) -> None:
        self._limit = seconds(limit)
        if not 0 < self._limit < math.inf:
            raise RegistrationError(f"Timeout({limit!r}) leaves no time; write one like '10s'")

    async def __call__(self, event: Event[Any], call_next: CallNext) -> None:
        async with self._limited(event.type):
            await call_next(event)

    async def on_batch(self, events: list[Event[Any]], call_next: CallNextBatch) -> None:
        """The limit is that of the whole list."""
        async with self._limited(events[0].type):
            await call_next(events)

    @asynccontextmanager
    async def _limited(self, event_type: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._limit) as clock:
                yield
        except TimeoutError as error:
            if not clock.expired():
                raise  # the handler's own
            raise HandlerTimeoutError(
                f"the handler of {event_type!r} did not finish within {humanize(self._limit)}"
            ) from error
