"""The handlers that run now: none runs longer than it may, and who runs long is named.

A look at all of them twice a second takes the place of a timer for each, of which a worker would
set thousands in a second. A handler that blocks the event loop stops these looks as well; then
the probes do not answer, and that is how it shows.
"""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Any, Self

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.durations import humanize
from jetstream_bridge.core.errors import HandlerTimeoutError
from jetstream_bridge.inbox.delivery import Delivery

logger = logging.getLogger(__name__)

LONG_AFTER = 30.0  # seconds after which a handler is named, and again each time twice as long
CANCEL_AGAIN = 5.0  # seconds until a handler that went on after its cancellation gets another


class HandlerRun:
    """The handlers that one task runs, one after the other: each while its block is open."""

    __slots__ = ("_runs", "began", "cancels", "delivery", "limit", "task", "told_at")

    # Of the one that runs now.
    delivery: Delivery
    limit: float | None
    began: float
    told_at: float
    cancels: int

    def __init__(self, runs: set[HandlerRun], task: asyncio.Task[Any]) -> None:
        self._runs = runs
        self.task = task

    def over(self, delivery: Delivery, limit: float | None, now: float) -> Self:
        """Note that a handler runs on `delivery`, for `limit` seconds at most (None: for ever).

        `now` is the loop's time. Raises `HandlerTimeoutError` at the end of one that ran into its
        limit, also when it kept its cancellation to itself.
        """
        self.delivery = delivery
        self.limit = limit
        self.began = now
        self.told_at = LONG_AFTER
        self.cancels = 0
        return self

    def __enter__(self) -> None:
        self._runs.add(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Raise `HandlerTimeoutError` for one that ran into its limit."""
        self._runs.discard(self)
        if not self.cancels or (error is not None and kind is not asyncio.CancelledError):
            return
        if self._others_want_its_end() and error is not None:
            return  # somebody else wants it to stop, too
        raise _expired(self) from error

    def _others_want_its_end(self) -> bool:
        """Take our cancellations back; say whether there are others."""
        for _ in range(self.cancels):
            self.task.uncancel()
        return self.task.cancelling() > 0

    @property
    def seconds(self) -> float:
        return loop_time() - self.began

    def __str__(self) -> str:
        handler, delivery = self.delivery.handler, self.delivery
        name = handler.name if handler is not None else "a handler"
        return f"{name} with {delivery.event_type} {delivery.key} for {self.seconds:.0f} s"


class HandlerWatch:
    """Watches over the handlers of one worker, which has `slots` for them."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._runs: set[HandlerRun] = set()

    def run(self, task: asyncio.Task[Any]) -> HandlerRun:
        """Return what notes the handlers that `task` runs."""
        return HandlerRun(self._runs, task)

    def look(self) -> None:
        """Name who runs long, and cancel who is over the limit. To be called twice a second."""
        for run in list(self._runs):
            seconds = run.seconds
            if seconds >= run.told_at:
                run.told_at = 2 * seconds
                _tell(run, logging.WARNING, f"handler has run for {seconds:.0f} s")
            if run.limit is not None and seconds >= run.limit + run.cancels * CANCEL_AGAIN:
                if run.cancels:
                    _tell(run, logging.ERROR, "handler goes on after its cancellation")
                run.cancels += 1
                run.task.cancel()

    @property
    def problem(self) -> str | None:
        """Say so when every slot has been held by one and the same event for long."""
        runs = list(self._runs)
        if len(runs) < self._slots or min(run.seconds for run in runs) < LONG_AFTER:
            return None
        longest = max(runs, key=lambda run: run.seconds)
        return f"all {self._slots} slots are held by handlers that run long; {longest}"

    def lines(self) -> list[str]:
        """What runs now, the longest first."""
        return [str(run) for run in sorted(self._runs, key=lambda run: run.began)]


def _expired(run: HandlerRun) -> HandlerTimeoutError:
    assert run.limit is not None
    event_type, limit = run.delivery.event_type, humanize(run.limit)
    return HandlerTimeoutError(f"the handler of {event_type!r} did not finish within {limit}")


def _tell(run: HandlerRun, level: int, text: str) -> None:
    delivery, handler = run.delivery, run.delivery.handler
    extra = {
        "event_id": delivery.key,
        "event_type": delivery.event_type,
        "handler": handler.place if handler is not None else None,
        "seconds": round(run.seconds, 1),
    }
    logger.log(level, "%s: %s %s", text, delivery.event_type, delivery.key, extra=extra)
