"""Whether this process works, and whether it is ready for requests.

The answer about readiness comes within its limit, whatever hangs: a check that is still waiting
is reported as failed, and is not asked again before it has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from jetstream_bridge.bridge import Bridge
from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.database_probe import described, write_problem
from jetstream_bridge.operations.readiness import Check, Probe
from jetstream_bridge.service.database import Database

_ANSWER_WITHIN = 1.5  # seconds; probes give up after 2
_GIVE_UP_AFTER = 5.0  # seconds, so that a check that hangs is asked again after a repair
_CLOSE_WITHIN = 2.0  # seconds; a driver takes its time to give up a connection that hangs


class Health:
    """What `/healthz` and `/readyz` tell about one process."""

    def __init__(
        self,
        database: Database,
        bridge: Bridge,
        pending_migrations: Callable[[], Awaitable[list[str]]],
        own: Mapping[str, Probe] | None = None,
    ) -> None:
        """`own` are the service's checks beside the package's."""
        self._database = database
        self._bridge = bridge
        self._pending_migrations = pending_migrations
        self._own = dict(own or {})
        self._probes = {
            "database": Probe(self._ask_database),
            "migrations": Probe(self._ask_migrations),
            **self._own,
        }
        self._asked: dict[str, asyncio.Task[Check]] = {}
        self._answers: dict[str, Check] | None = None
        self._answered_at = 0.0

    def failures(self) -> list[str]:
        """The background tasks that are down, or die whenever they are started."""
        return self._bridge.failures()

    async def checks(self, *, max_age: float = 0.0) -> dict[str, Check]:
        """Every check of readiness by its name; what had to be asked may be `max_age` s old."""
        return await self._answered(max_age) | self._bridge.checks()

    async def own_checks(self, *, max_age: float = 0.0) -> dict[str, Check]:
        """The service's own checks of readiness; an answer may be `max_age` seconds old."""
        answers = await self._answered(max_age) if self._own else {}
        return {name: answers[name] for name in self._own}

    async def _answered(self, max_age: float) -> dict[str, Check]:
        if self._answers is None or loop_time() - self._answered_at > max_age:
            tasks = {name: self._ask(name) for name in self._probes}
            await asyncio.wait(tasks.values(), timeout=_ANSWER_WITHIN)
            needed = {name: probe.needed for name, probe in self._probes.items()}
            self._answers = {name: _outcome(task, needed[name]) for name, task in tasks.items()}
            self._answered_at = loop_time()
        return self._answers

    async def close(self) -> None:
        """Give up what is still being asked."""
        asked = [task for task in self._asked.values() if not task.done()]
        for task in asked:
            task.cancel()
        if asked:
            await asyncio.wait(asked, timeout=_CLOSE_WITHIN)

    def _ask(self, name: str) -> asyncio.Task[Check]:
        task = self._asked.get(name)
        if task is None or task.done():
            task = self._asked[name] = asyncio.create_task(_bounded(self._probes[name]))
        return task

    async def _ask_database(self) -> Check:
        """Whether it takes a write: one that only answers is of no use to any process."""
        problem = await write_problem(
            self._database.engine, limit=_GIVE_UP_AFTER, tables_may_lack=True
        )
        return Check(ok=problem is None, detail=problem)

    async def _ask_migrations(self) -> Check:
        pending = await self._pending_migrations()
        if not pending:
            return Check(ok=True)
        missing = ", ".join(pending)
        return Check(ok=False, detail=f"not applied: {missing}; run: alembic upgrade heads")


async def _bounded(probe: Probe) -> Check:
    try:
        async with asyncio.timeout(_GIVE_UP_AFTER):
            return await probe.ask()
    except Exception as error:  # whatever it is, the answer is "not ready", and why
        return Check(ok=False, detail=described(error))


def _outcome(task: asyncio.Task[Check], needed: bool) -> Check:
    if not task.done():
        return Check(ok=False, detail=f"no answer within {_ANSWER_WITHIN:g} s", needed=needed)
    return replace(task.result(), needed=needed)
