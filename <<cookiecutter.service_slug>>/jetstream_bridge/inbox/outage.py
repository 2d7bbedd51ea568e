"""Whether a worker may begin with an event: the database takes a write, and knows our tables.

While it does not, nothing is pulled and nothing is tried, and `problem` says why. A database that
takes a write again may still refuse the next one, with a full disk for instance. So one event goes
first, and the outage is over when something was committed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge.core.database_probe import described, write_problem
from jetstream_bridge.core.limits import bounded, leave

logger = logging.getLogger(__name__)

PAUSE = 0.5  # seconds between two questions to a database that is away
_CLOSE_LIMIT = 2.0  # seconds
_MIGRATIONS_LIMIT = 10.0  # seconds; the first question reads the service's own revisions too

PendingMigrations = Callable[[], Awaitable[Sequence[str]]]


class Outage:
    """What keeps one worker from working. It begins with one, until the database was asked."""

    def __init__(self, engine: AsyncEngine, pending: PendingMigrations | None) -> None:
        """`pending` names the migrations that the database lacks."""
        self._engine = engine
        self._pending = pending
        self._noticed = asyncio.Event()
        self._noticed.set()
        self._asking: asyncio.Task[str | None] | None = None
        self._told = False  # in the log
        self.problem: str | None = "the database was not asked yet"
        self.trial = False  # it takes writes again; one event shows whether that is so
        self.number = 0  # how often one was noticed

    @property
    def holds_back(self) -> bool:
        """Whether nothing may be tried now."""
        return self.problem is not None and not self.trial

    async def watch(self, resume: Callable[[], bool]) -> None:
        """Ask until the database works, whenever it does not. One task, owned by the worker.

        `resume` lets the worker go on, and says whether it has anything to try.
        """
        while True:
            await self._noticed.wait()
            if not self.trial:
                await self._ask_again(resume)
            if self._noticed.is_set():
                await asyncio.sleep(PAUSE)

    async def close(self) -> None:
        """Let a question under way end; a connection that is given up amid its start may stay."""
        if self._asking is not None and not self._asking.done():
            await asyncio.wait({self._asking}, timeout=_CLOSE_LIMIT)
            leave(self._asking)

    async def _ask_again(self, resume: Callable[[], bool]) -> None:
        self._asking = asyncio.create_task(self.ask())
        problem = await asyncio.shield(self._asking)
        if problem is not None:
            self.problem = problem
            self._tell(problem)
            return
        self.trial = True
        if not resume():
            self.over()
            resume()

    async def ask(self) -> str | None:
        """Return why the database does not take our writes now; None: it does."""
        problem = await write_problem(self._engine)
        if (missing := await self.missing()) is not None:
            return missing
        return None if problem is None else f"the database takes no write: {problem}"

    async def missing(self) -> str | None:
        """Return which migrations the database lacks; None where it has all, or nobody knows."""
        if self._pending is None:
            return None
        try:
            pending = await bounded(_awaited(self._pending), _MIGRATIONS_LIMIT)
        except Exception as error:  # it is away, then, and the probe says so
            logger.debug("migrations are unknown: %s", described(error))
            return None
        return f"migrations are not applied: {', '.join(pending)}" if pending else None

    def notice(self, problem: str) -> None:
        """The database cannot work: hold everything until it can."""
        self.problem, self.trial = problem, False
        self.number += 1
        self._tell(problem)
        self._noticed.set()

    def over(self) -> None:
        """Something was committed."""
        if self.problem is None:
            return
        if self._told:
            logger.info("the database takes writes again")
        self.problem = None
        self.trial = self._told = False
        self._noticed.clear()

    def _tell(self, problem: str) -> None:
        if not self._told:
            self._told = True
            logger.warning("events wait, and nothing counts as tried: %s", problem)


async def _awaited(question: PendingMigrations) -> Sequence[str]:
    return await question()
