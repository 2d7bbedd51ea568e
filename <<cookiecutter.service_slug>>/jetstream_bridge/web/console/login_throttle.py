"""How often a wrong token was tried of late. Whoever tries too often has to wait.

Of this process alone, in bounded memory. The limit for all together holds where everybody comes
from one address, as behind a proxy, or one comes from many.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from jetstream_bridge.core.clock import loop_time

WINDOW = 60.0  # seconds
EACH = 5  # wrong tokens from one address within the window
ALL = 50  # ... from all of them
_ADDRESSES = 1000  # remembered at once


class LoginThrottle:
    """Counts failed logins."""

    def __init__(self) -> None:
        self._all: deque[float] = deque(maxlen=ALL)
        self._of: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Return the seconds that `address` has to wait before it may try; 0 when it may."""
        now = loop_time()
        return max(_left(self._all, ALL, now), _left(self._of.get(address, deque()), EACH, now))

    def failed(self, address: str) -> None:
        """Note a wrong token."""
        times = self._of.setdefault(address, deque(maxlen=EACH))
        self._of.move_to_end(address)
        times.append(loop_time())
        self._all.append(loop_time())
        if len(self._of) > _ADDRESSES:
            self._of.popitem(last=False)


def _left(times: deque[float], most: int, now: float) -> float:
    return max(0.0, times[0] + WINDOW - now) if len(times) >= most else 0.0
