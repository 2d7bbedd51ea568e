"""A clock that jumps: whoever waits on the event loop waits for no real time.

The rule is one sentence: time moves only while everybody waits. As long as something on the loop
can run, its clock stands still; when nothing can, it jumps to the next timer. While work is under
way outside the loop, where the clock cannot look (a database call in its thread, a function in an
executor), it stands still too, however busy the machine is. Only when such work takes longer than
it ever should (it may wait for a lock whose holder waits for this clock) time goes on, at the
world's pace, so that nothing is stuck.

"Settled" means that the clock would jump now: nothing can run, and nothing is under way outside.
"""

from __future__ import annotations

import asyncio
import re
import selectors
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import aiosqlite
from sqlalchemy import event
from sqlalchemy.pool import Pool

from jetstream_bridge.core.durations import seconds

_OUTSIDE_POLL = 0.05  # seconds between two looks at the loop while work outside it is under way
_OUTSIDE_GRACE = 0.1  # seconds of the world without any such work ending, before time goes on
_SOCKET_GRACE = 0.005  # seconds that an answer on a socket has before the clock jumps
_NUDGE = 1e-9  # seconds; rounding must not leave a timer just short of its time
_NOW = re.compile("now", re.IGNORECASE)

Events = list[tuple[selectors.SelectorKey, int]]


class VirtualClock:
    """The clock of one event loop: `with VirtualClock(loop) as clock`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # A selector loop is the only kind that can be taught; uvloop keeps its clock to itself.
        if not isinstance(loop, asyncio.SelectorEventLoop):
            raise TypeError(f"a virtual clock needs asyncio's selector loop, not {type(loop)}")
        self._put_on(loop)

    def _put_on(self, loop: Any) -> None:
        self._loop = loop
        self._now: float = loop.time()
        self._began = self._now
        self._began_at = datetime.now(UTC)
        self._outside = 0
        self._outside_since = 0.0  # when such work last began or ended, in the world's time
        self._settling: list[asyncio.Future[None]] = []
        self._selector: Any = self._loop._selector
        self._select: Callable[[float | None], Events] = self._selector.select

    # --- what a test asks for

    async def advance(self, duration: str | float) -> None:
        """Let `duration` ("30s", "500ms", or seconds) pass, and everything that falls into it."""
        length = seconds(duration) if isinstance(duration, str) else float(duration)
        await asyncio.sleep(length)
        await self.settle()

    async def settle(self) -> None:
        """Return when everybody waits for time to pass."""
        waiting = self._loop.create_future()
        self._settling.append(waiting)
        await waiting

    @property
    def time(self) -> float:
        """Seconds of the loop's clock."""
        return self._now

    @property
    def elapsed(self) -> float:
        """Seconds since the clock was put in."""
        elapsed: float = self._now - self._began
        return elapsed

    def utcnow(self) -> datetime:
        """The moment that this clock takes for the present."""
        return self._began_at + timedelta(seconds=self.elapsed)

    # --- putting it in

    def __enter__(self) -> Self:
        self._loop.time = lambda: self._now
        self._selector.select = self._wait
        self._run_in_executor = self._loop.run_in_executor
        self._loop.run_in_executor = self._in_executor
        self._sqlite = _sqlite_calls(self._count)
        self._sqlite.__enter__()
        event.listen(Pool, "connect", self._govern)
        return self

    def __exit__(self, *_: object) -> None:
        event.remove(Pool, "connect", self._govern)
        self._sqlite.__exit__(None, None, None)
        for name in ("time", "run_in_executor"):
            delattr(self._loop, name)
        del self._selector.select

    def _wait(self, timeout: float | None = None) -> Events:
        """Stand in for the selector's `select`, which is where a loop waits."""
        events = self._select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if self._outside:
            return self._wait_outside(timeout)
        if len(self._selector.get_map()) > 1 and (events := self._select(_SOCKET_GRACE)):
            return events  # one is the loop's own, by which threads wake it
        if self._settling:
            waiting, self._settling = self._settling, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)
            return []
        if timeout is None:
            return self._select(None)
        self._now += timeout + _NUDGE
        return []

    def _wait_outside(self, timeout: float | None) -> Events:
        began = time.perf_counter()
        grace = self._outside_since + _OUTSIDE_GRACE - began
        if grace > 0:
            return self._select(grace)
        limit = _OUTSIDE_POLL if timeout is None else min(timeout, _OUTSIDE_POLL)
        events = self._select(limit)
        self._now += min(limit, time.perf_counter() - began)
        return events

    def _count(self, work: asyncio.Future[Any]) -> None:
        self._outside += 1
        self._outside_since = time.perf_counter()
        work.add_done_callback(self._counted)

    def _counted(self, work: asyncio.Future[Any]) -> None:
        self._outside -= 1
        self._outside_since = time.perf_counter()

    def _in_executor(self, *args: Any) -> asyncio.Future[Any]:
        work: asyncio.Future[Any] = self._run_in_executor(*args)
        self._count(work)
        return work

    def _govern(self, connection: Any, _record: object) -> None:
        """Make SQLite's `now` this clock's, and spare its files the waiting for the disk."""
        if not hasattr(connection, "create_function"):
            return
        cursor = connection.cursor()
        cursor.execute("PRAGMA synchronous = OFF")
        cursor.close()
        plain = sqlite3.connect(":memory:", check_same_thread=False)

        def strftime(*arguments: object) -> object:
            present = self.utcnow().strftime("%Y-%m-%d %H:%M:%S.%f")
            given = [_NOW.sub(present, str(one)) for one in arguments[1:]]
            places = ", ".join("?" for _ in arguments)
            return plain.execute(f"SELECT strftime({places})", [arguments[0], *given]).fetchone()[0]

        connection.create_function("strftime", -1, strftime)
        connection.create_function(
            "CURRENT_TIMESTAMP", 0, lambda: strftime("%Y-%m-%d %H:%M:%S", "now")
        )


@contextmanager
def _sqlite_calls(count: Callable[[asyncio.Future[Any]], None]) -> Iterator[None]:
    """Have everything counted that is handed to an SQLite connection's thread.

    That is done at the queue which leads there: not all who use it call aiosqlite's methods.
    """
    kind: Any = aiosqlite.Connection

    def read(connection: Any) -> _Counted:
        return _Counted(connection.__dict__["_tx"], count)

    def write(connection: Any, queue: Any) -> None:
        connection.__dict__["_tx"] = queue

    kind._tx = property(read, write)
    try:
        yield
    finally:
        del kind._tx


class _Counted:
    """The queue of an SQLite connection, `(future, function)` for each call."""

    def __init__(self, queue: Any, count: Callable[[asyncio.Future[Any]], None]) -> None:
        self._queue = queue
        self._count = count
        self.get = queue.get

    def put_nowait(self, item: tuple[asyncio.Future[Any] | None, object]) -> None:
        if item[0] is not None:
            self._count(item[0])
        self._queue.put_nowait(item)
