"""Background tasks with an owner: one that dies is noticed, and every one can be stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

logger = logging.getLogger(__name__)


async def happens(event: asyncio.Event, within: float) -> bool:
    """Wait for `event`, for `within` seconds at most; say whether it is set."""
    try:
        await asyncio.wait_for(event.wait(), within)
    except TimeoutError:
        return False
    return True


class Tasks:
    """The background tasks of one bridge."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, BaseException] = {}

    def start(self, name: str, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run `work` in the background under `name`."""
        task = asyncio.create_task(work, name=name)
        self._tasks[name] = task
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._failures[task.get_name()] = error
            logger.critical("background task %r died", task.get_name(), exc_info=error)

    def failures(self) -> list[str]:
        """Return a line for each task that died."""
        return [f"{name} died: {error!r}" for name, error in self._failures.items()]

    async def finish(self, name: str, limit: float) -> None:
        """Give a task that was told to stop `limit` seconds to end, then cancel it."""
        task = self._tasks.get(name)
        if task is None or task.done():
            return
        _, late = await asyncio.wait([task], timeout=limit)
        if late:
            logger.warning("background task %r is stopped after %.1f s", name, limit)
            await self.cancel(name)

    async def cancel(self, *names: str) -> None:
        """Cancel tasks and wait a moment for them; without names, all of them."""
        chosen = [self._tasks[name] for name in names or self._tasks if name in self._tasks]
        pending = [task for task in chosen if not task.done()]
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending, timeout=2.0)
