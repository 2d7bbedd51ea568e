"""The clock of everything that waits: the event loop's own.

Time limits end by it already, and so a test that moves the loop's clock moves all of the bridge.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


def loop_time() -> float:
    """Seconds from an arbitrary beginning."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:  # something is made before the loop runs, whose clock this is by default
        return time.monotonic()


def running_clock() -> Callable[[], float]:
    """The same for many looks: finding the loop costs more than asking it for the time."""
    return asyncio.get_running_loop().time
