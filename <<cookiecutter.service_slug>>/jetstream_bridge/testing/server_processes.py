"""Starting and stopping servers of a test: waiting, ports."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections import deque
from collections.abc import Callable

START_LIMIT = 30.0  # seconds; a loaded machine needs several
STOP_LIMIT = 15.0  # seconds


def wait_until(condition: Callable[[], bool], *, limit: float, what: str) -> None:
    """Return as soon as `condition()` holds; raise `TimeoutError` naming `what` after `limit` s."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {limit:g} s")
        time.sleep(0.02)


# One that was drawn a moment ago is free until somebody listens there: not to be drawn again.
_drawn: deque[int] = deque(maxlen=1000)


def free_port() -> int:
    """A free port on loopback, below the range that outgoing connections draw from."""
    system = random.SystemRandom()  # two test processes with one seed draw two ports
    while True:
        port = system.randrange(20_000, 32_000)
        if port in _drawn:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _drawn.append(port)
            return port
