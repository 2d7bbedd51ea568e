"""The end of a process: it comes in time, whatever runs.

A signal starts a clock of its own, in a thread: neither a handler that blocks the event loop, nor
one that ignores its cancellation, nor a thread that nobody can stop holds the process for longer
than the grace and a few seconds. A process that stopped in order is gone before, with status 0.
"""

from __future__ import annotations

import asyncio
import faulthandler
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from jetstream_bridge.core.logger import get_logger

if TYPE_CHECKING:
    import uvicorn

AFTER_GRACE = 8.0  # seconds beyond the grace for acks, connections and what cannot be stopped
LEAST_GRACE = 1.0  # seconds that what runs is given in any case
SIGNALS = (signal.SIGTERM, signal.SIGINT)

_STDERR = 2
_LOG_LIMIT = 1.0  # seconds; whoever is stuck may hold a lock of the log

_log = get_logger(__name__)


class Shutdown:
    """Counts down from the moment when this process was asked to stop."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        # Says what still runs, a line each; it is called from another thread.
        self.running: Callable[[], list[str]] = list
        self._asked_at: float | None = None
        self._done = threading.Event()
        # Held until the clock starts. To release it is all that a signal may do: what it
        # interrupts may hold any lock of Python's own.
        self._gate = threading.Lock()
        self._gate.acquire()
        self._watchdog: threading.Thread | None = None
        self._on_ask: Callable[[], object] | None = None

    @property
    def asked(self) -> bool:
        return self._asked_at is not None

    @property
    def left(self) -> float:
        """Seconds that are left of the grace."""
        since = self._asked_at if self._asked_at is not None else time.monotonic()
        return max(LEAST_GRACE, self._grace - (time.monotonic() - since))

    def arm(self) -> None:
        """Be ready for `ask`."""
        if self._watchdog is None:
            self._watchdog = threading.Thread(
                target=self._watch, name="shutdown watchdog", daemon=True
            )
            self._watchdog.start()

    def ask(self) -> None:
        """Start the clock, once. The process ends with it, unless it is gone by then."""
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            self._gate.release()
            if self._on_ask is not None:
                self._on_ask()

    @contextmanager
    def cancelling(self) -> Iterator[None]:
        """Cancel the body, which waits for others while nothing runs yet, when a signal comes."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._on_ask = partial(loop.call_soon_threadsafe, task.cancel)
        try:
            yield
        finally:
            self._on_ask = None

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Watch over the body. Without a signal the process goes on after it, unwatched."""
        for_good = self.asked
        self.arm()
        self.ask()
        try:
            yield
        finally:
            if not for_good:
                self._done.set()

    def _watch(self) -> None:
        self._gate.acquire()
        if self._done.wait(self._grace + AFTER_GRACE):
            return
        saying = threading.Thread(target=self._say_what_holds, daemon=True)
        saying.start()
        saying.join(_LOG_LIMIT)
        faulthandler.dump_traceback(file=_STDERR)
        os._exit(1)

    def _say_what_holds(self) -> None:
        _log.critical(
            "the process did not stop in time and is ended",
            seconds=self._grace + AFTER_GRACE,
            handlers=self.running(),
            threads=[thread.name for thread in threading.enumerate() if _holds(thread)],
        )
        sys.stderr.flush()


def _holds(thread: threading.Thread) -> bool:
    return not thread.daemon and thread is not threading.main_thread()


@contextmanager
def on_signals(act: Callable[[int], None]) -> Iterator[None]:
    """Call `act` with the first SIGTERM or SIGINT; what stood there before is back for the next.

    Python's own handlers run also while a handler of an event keeps the event loop busy.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            if signal.getsignal(number) is first:
                signal.signal(number, handler)

    def first(number: int, _frame: FrameType | None) -> None:
        restore()
        act(number)

    for number in SIGNALS:
        signal.signal(number, first)
    try:
        yield
    finally:
        restore()


@contextmanager
def with_uvicorn(shutdown: Shutdown) -> Iterator[None]:
    """Have uvicorn's end begin with the first signal, be bounded, and be one with status 0.

    By itself uvicorn waits for ever for a request whose body does not come, and ends by the
    signal that it got. Under another server only the end of its lifespan is bounded.
    """
    server = _uvicorn()
    if server is None:
        yield
        return

    def act(_number: int) -> None:
        shutdown.ask()
        if server.config.timeout_graceful_shutdown is None:
            server.config.timeout_graceful_shutdown = math.ceil(shutdown.left)
        server.should_exit = True

    shutdown.arm()
    with on_signals(act):
        yield


def _uvicorn() -> uvicorn.Server | None:
    """The server that runs this process' main thread, if it is one that takes signals."""
    if threading.current_thread() is not threading.main_thread():
        return None
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if server is None:
        return None
    import uvicorn  # it is there if the server is uvicorn's, and need not be loaded for another

    return server if isinstance(server, uvicorn.Server) else None
