"""What the overview knows: asked for when somebody looks, at most every five seconds.

However many look, the database gets four small statements and JetStream a handful of requests in
five seconds, and none costs more for a larger table. A page waits two seconds for an answer; what
is late or failed is unknown, with the reason, and the rest is shown. The last five minutes are
kept for the charts, as far as somebody looked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge.bridge import Bridge
from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.errors import NotConnectedError
from jetstream_bridge.operations.inspection import ConsumerState
from jetstream_bridge.operations.open_transactions import (
    OpenTransaction,
    dead_rows,
    oldest_transaction,
)
from jetstream_bridge.operations.statistics import Backlog, Flow, flow, outbox_backlog
from jetstream_bridge.web.admin.access import FAULTS, as_http

EVERY = 5.0  # seconds between two readings
ANSWER_WITHIN = 2.0  # seconds that a page waits for one
READ_LIMIT = 10.0  # seconds after which a question is given up
KEPT = 300.0  # seconds
HANDLED_WITHIN = 10.0  # seconds over which handled events are counted
_NEIGHBOURS = 30.0  # seconds; readings further apart give no rate
_CLOSE_LIMIT = 2.0  # seconds

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """A value, or why it is not known."""

    value: T | None = None
    unknown: str | None = None


Consumers = tuple[list[ConsumerState], list[str]]  # those that exist, the names of the others


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What was known at one moment."""

    at: float  # of the loop's clock
    time: datetime
    backlog: Answer[Backlog]
    paused_since: Answer[datetime | None]
    flow: Answer[Flow]
    consumers: Answer[Consumers]
    letters: Answer[int]
    rtt: Answer[float]
    transaction: Answer[OpenTransaction | None]  # the database's oldest
    dead_rows: Answer[int | None]  # row versions that wait for a vacuum
    published: float | None = None  # events in a second, by all replicas; None: not known yet

    @property
    def pending(self) -> int | None:
        return None if self.backlog.value is None else self.backlog.value.pending

    @property
    def failed(self) -> int | None:
        return None if self.backlog.value is None else self.backlog.value.failed

    @property
    def held(self) -> int | None:
        """Of the pending events those that wait for a next try, or behind one that does."""
        return None if self.backlog.value is None else self.backlog.value.held

    @property
    def handled(self) -> float | None:
        """Events in a second, by all workers."""
        return None if self.flow.value is None else self.flow.value.handled / HANDLED_WITHIN

    @property
    def lag(self) -> int | None:
        """Events that wait for this service: not delivered, or not acknowledged."""
        if self.consumers.value is None:
            return None
        return sum(consumer.lag for consumer in self.consumers.value[0])


class SnapshotCache:
    """Reads for one process, for as long as it is entered."""

    def __init__(self, bridge: Bridge, engine: AsyncEngine) -> None:
        connection = bridge.connection
        self._questions: dict[str, Callable[[], Awaitable[Any]]] = {
            "backlog": lambda: outbox_backlog(engine),
            "paused_since": bridge.outbox_pause.since,
            "flow": lambda: flow(engine, within=HANDLED_WITHIN),
            "consumers": bridge.inspection.own_consumers,
            "letters": bridge.letters.count,
            "rtt": bridge.inspection.rtt,
            "transaction": lambda: oldest_transaction(engine),
            "dead_rows": lambda: dead_rows(engine),
        }
        self._explain = connection.explain
        self._asked: dict[str, asyncio.Task[Answer[Any]]] = {}
        self._lock = asyncio.Lock()
        self._kept: deque[Snapshot] = deque(maxlen=2 * int(KEPT / EVERY))
        self._is_old = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give up what is still being asked."""
        asked = [task for task in self._asked.values() if not task.done()]
        for task in asked:
            task.cancel()
        if asked:
            await asyncio.wait(asked, timeout=_CLOSE_LIMIT)

    @property
    def history(self) -> list[Snapshot]:
        """The readings of the last five minutes, oldest first."""
        return [reading for reading in self._kept if reading.at >= loop_time() - KEPT]

    def expire(self) -> None:
        """Somebody changed something: whoever looks next is to see it."""
        self._is_old = True

    async def latest(self) -> Snapshot:
        """Return a reading that is less than five seconds old; in two seconds at most."""
        async with self._lock:  # those who look at the same time share one reading
            old = self._is_old or not self._kept or loop_time() - self._kept[-1].at >= EVERY
            if old:
                self._is_old = False
                self._kept.append(await self._read())
            return self._kept[-1]

    async def _read(self) -> Snapshot:
        tasks = {name: self._ask(name) for name in self._questions}
        await asyncio.wait(tasks.values(), timeout=ANSWER_WITHIN)
        answers: dict[str, Any] = {name: _outcome(task) for name, task in tasks.items()}
        reading = Snapshot(at=loop_time(), time=datetime.now(UTC), **answers)
        before = self._kept[-1] if self._kept else None
        return _with_rate(reading, before)

    def _ask(self, name: str) -> asyncio.Task[Answer[Any]]:
        """A question that is still open is not asked once more."""
        task = self._asked.get(name)
        if task is None or task.done():
            task = asyncio.create_task(self._answer(self._questions[name]), name=f"console {name}")
            self._asked[name] = task
        return task

    async def _answer(self, question: Callable[[], Awaitable[T]]) -> Answer[T]:
        try:
            async with asyncio.timeout(READ_LIMIT):
                return Answer(await question())
        except NotConnectedError:
            return Answer(unknown=self._explain())
        except FAULTS as error:
            return Answer(unknown=str(as_http(error).detail))


def _outcome(task: asyncio.Task[Answer[Any]]) -> Answer[Any]:
    if not task.done():
        return Answer(unknown=f"no answer within {ANSWER_WITHIN:g} s")
    return task.result()


def _with_rate(reading: Snapshot, before: Snapshot | None) -> Snapshot:
    """Count what left the outbox: written since the last reading, less what is unsent more."""
    if before is None or not 0 < reading.at - before.at <= _NEIGHBOURS:
        return reading
    flows, backlogs = (before.flow, reading.flow), (before.backlog, reading.backlog)
    if any(answer.value is None for answer in (*flows, *backlogs)):
        return reading
    written = _newest(reading) - _newest(before)
    left = max(0, written - (_unsent(reading) - _unsent(before)))
    return replace(reading, published=left / (reading.at - before.at))


def _newest(reading: Snapshot) -> int:
    return reading.flow.value.newest if reading.flow.value is not None else 0


def _unsent(reading: Snapshot) -> int:
    backlog = reading.backlog.value
    return backlog.pending + backlog.failed if backlog is not None else 0
