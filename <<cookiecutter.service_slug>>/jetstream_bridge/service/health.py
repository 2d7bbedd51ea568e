"""Whether this process works, and whether it is ready for requests.

The answer about readiness comes within its limit, whatever hangs: a check that is still waiting
is reported as failed, and is not asked again before it has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from jetstream_bridge.bridge import Bridge
from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.database_probe import described, write_problem
from jetstream_bridge.operations.readiness import Check
from jetstream_bridge.service.database import Database

_ANSWER_WITHIN = 1.5  # seconds; probes give up after 2
_GIVE_UP_AFTER = 5.0  # seconds, so that a check that hangs is asked again after a repair
_CLOSE_WITHIN = 2.0  # seconds; a driver takes its time to give up a connection that hangs

Question = Callable[[], Awaitable[str | None]]  # None: all is well; else what is not


class Health:
    """What `/healthz` and `/readyz` tell about one process."""

    def __init__(
        self,
        database: Database,
        bridge: Bridge,
        pending_migrations: Callable[[], Awaitable[list[str]]],
    ) -> None:
        self._database = database
        self._bridge = bridge
        self._pending_migrations = pending_migrations
        self._questions: dict[str, Question] = {
            "database": self._ask_database,
            "migrations": self._ask_migrations,
        }
        self._asked: dict[str, asyncio.Task[str | None]] = {}
        self._answers: dict[str, Check] | None = None
        self._answered_at = 0.0

    def failures(self) -> list[str]:
        """The background tasks that are down, or die whenever they are started."""
        return self._bridge.failures()

    async def checks(self, *, max_age: float = 0.0) -> dict[str, Check]:
        """Every check of readiness by its name; what the database said may be `max_age` s old."""
        if self._answers is None or loop_time() - self._answered_at > max_age:
            tasks = {name: self._ask(name) for name in self._questions}
            await asyncio.wait(tasks.values(), timeout=_ANSWER_WITHIN)
            self._answers = {name: _outcome(task) for name, task in tasks.items()}
            self._answered_at = loop_time()
        return self._answers | self._bridge.checks()

    async def close(self) -> None:
        """Give up what is still being asked."""
        asked = [task for task in self._asked.values() if not task.done()]
        for task in asked:
            task.cancel()
        if asked:
            await asyncio.wait(asked, timeout=_CLOSE_WITHIN)

    def _ask(self, name: str) -> asyncio.Task[str | None]:
        task = self._asked.get(name)
        if task is None or task.done():
            task = self._asked[name] = asyncio.create_task(_bounded(self._questions[name]))
        return task

    async def _ask_database(self) -> str | None:
        """Whether it takes a write: one that only answers is of no use to any process."""
        return await write_problem(
            self._database.engine, limit=_GIVE_UP_AFTER, tables_may_lack=True
        )

    async def _ask_migrations(self) -> str | None:
        pending = await self._pending_migrations()
        if not pending:
            return None
        return f"not applied: {', '.join(pending)}; run: alembic upgrade heads"


async def _bounded(question: Question) -> str | None:
    try:
        async with asyncio.timeout(_GIVE_UP_AFTER):
            return await question()
    except Exception as error:  # whatever it is, the answer is "not ready", and why
        return described(error)


def _outcome(task: asyncio.Task[str | None]) -> Check:
    if not task.done():
        return Check(ok=False, detail=f"no answer within {_ANSWER_WITHIN:g} s")
    detail = task.result()
    return Check(ok=detail is None, detail=detail)
