"""Background tasks with an owner: one that dies is noticed and started again.

No outage ends a task, each waits out its own. What ends one is a fault that nobody thought of: it
is logged with its traceback and counted, and the task starts again after a pause. A task that is
down, or goes down again and again, is told until it has run for a while.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from functools import cache

from prometheus_client import REGISTRY, CollectorRegistry, Counter

from jetstream_bridge.core.clock import loop_time

logger = logging.getLogger(__name__)

RESTART_MIN, RESTART_MAX = 0.5, 30.0  # seconds between a death and the next start
STABLE_AFTER = 30.0  # seconds; whoever ran for so long is well, whatever was before
KEEPS_DYING = 3  # deaths in a row after which a new start is no cure


async def happens(event: asyncio.Event, within: float) -> bool:
    """Wait for `event`, for `within` seconds at most; say whether it is set."""
    try:
        await asyncio.wait_for(event.wait(), within)
    except TimeoutError:
        return False
    return True


@cache
def _deaths(registry: CollectorRegistry) -> Counter:
    return Counter(
        "bridge_task_deaths_total",
        "Background tasks that ended by a fault of their own and were started again",
        ("task",),
        registry=registry,
    )


class _Supervised:
    """One background task, and how it fares."""

    def __init__(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        self.name = name
        self._work = work
        self._began = loop_time()
        self._down = False
        self._deaths = 0  # in a row
        self._error: BaseException | None = None
        _deaths(REGISTRY).labels(name)  # 0, and not absent, until it dies

    async def run(self) -> None:
        """Run the work until it returns; start it again whenever it raises."""
        while True:
            self._began, self._down = loop_time(), False
            try:
                await self._work()
                return
            except asyncio.CancelledError as error:
                if _is_being_cancelled():
                    raise
                pause = self._died(error)  # one of its own making: nobody told it to stop
            except Exception as error:  # a fault of ours; the other tasks go on meanwhile
                pause = self._died(error)
            await asyncio.sleep(pause)

    def _died(self, error: BaseException) -> float:
        """Take note, and return the seconds until the next start."""
        if self._ran_for_long:
            self._deaths = 0
        self._deaths, self._down, self._error = self._deaths + 1, True, error
        _deaths(REGISTRY).labels(self.name).inc()
        pause = min(RESTART_MAX, RESTART_MIN * 2.0 ** min(self._deaths - 1, 10))
        pause *= random.uniform(0.5, 1.0)
        logger.critical(
            "background task %r died, again in %.1f s", self.name, pause, exc_info=error
        )
        return pause

    @property
    def _ran_for_long(self) -> bool:
        return not self._down and loop_time() - self._began >= STABLE_AFTER

    @property
    def failure(self) -> str | None:
        """What to say of a task that is down, or goes down each time that it is started."""
        if self._error is None or not (self._down or self._deaths >= KEEPS_DYING):
            return None
        if self._ran_for_long:
            return None
        often = f" {self._deaths} times in a row" if self._deaths > 1 else ""
        return f"{self.name} died{often}: {self._error!r}"


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Tasks:
    """The background tasks of one owner."""

    def __init__(self) -> None:
        self._stopped: set[str] = set()  # by their owner
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._supervised: dict[str, _Supervised] = {}

    def start(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run `work()` in the background under `name`, and again whenever it dies of a fault."""
        supervised = self._supervised[name] = _Supervised(name, work)
        task = self._tasks[name] = asyncio.create_task(supervised.run(), name=name)
        return task

    def failures(self) -> list[str]:
        """Return a line for each task that is down, or that keeps dying."""
        failures = [one.failure for one in self._supervised.values()]
        cancelled = (
            f"{name} was cancelled by somebody who does not own it"
            for name, task in self._tasks.items()
            if task.cancelled() and name not in self._stopped
        )
        return [*(failure for failure in failures if failure is not None), *cancelled]

    async def finish(self, name: str, limit: float) -> None:
        """Give a task that was told to stop `limit` seconds to end, then cancel it."""
        task = self._tasks.get(name)
        if task is None or task.done():
            return
        _, late = await asyncio.wait([task], timeout=limit)
        if late:
            logger.warning("background task %r is stopped after %.1f s", name, limit)
            await self.cancel(name)

    async def cancel(self, *names: str, within: float = 2.0) -> None:
        """Cancel tasks and wait `within` seconds for them; without names, all of them."""
        chosen = [self._tasks[name] for name in names or self._tasks if name in self._tasks]
        pending = [task for task in chosen if not task.done()]
        self._stopped.update(task.get_name() for task in pending)
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending, timeout=within)
