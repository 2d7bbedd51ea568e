"""How long to wait before the next try. Jitter spreads tries that failed together."""

from __future__ import annotations

import random
from collections.abc import Sequence

JITTER = 0.1  # a tenth to either side


class Backoff:
    """A list of delays in seconds; the last one repeats."""

    def __init__(self, delays: Sequence[float], *, jitter: float = JITTER) -> None:
        if not delays:
            raise ValueError("a back-off needs at least one delay")
        self._delays = tuple(delays)
        self._jitter = jitter

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait after the `attempt`-th failure, counted from 1."""
        base = self._delays[min(max(attempt, 1), len(self._delays)) - 1]
        return base * random.uniform(1 - self._jitter, 1 + self._jitter)
