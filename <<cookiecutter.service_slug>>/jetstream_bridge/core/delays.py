"""How long to wait before the next try, and when to give up.

A strategy is any object with one method, `delay(attempt)`: the seconds to wait after the
`attempt`-th failure, counted from 1, or None to give up. It keeps no state, so one object serves
every event. Jitter spreads tries that failed together.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jetstream_bridge.core.durations import seconds
from jetstream_bridge.core.errors import ConfigurationError

JITTER = 0.1  # a tenth to either side

Duration = str | float  # "250ms", "30s", or seconds


@runtime_checkable
class RetryStrategy(Protocol):
    """Decides on each next try. Write your own as a class with this method."""

    def delay(self, attempt: int, /) -> float | None:
        """Return the seconds to wait after the `attempt`-th failure, or None to give up."""
        ...


class Backoff:
    """A list of delays; the last one repeats, so this one never gives up by itself."""

    def __init__(self, delays: Sequence[Duration], *, jitter: float = JITTER) -> None:
        self._delays = _listed(delays)
        self._jitter = _fraction(jitter)

    def delay(self, attempt: int, /) -> float:
        index = min(max(attempt, 1), len(self._delays)) - 1
        return _jittered(self._delays[index], self._jitter)


class Delays:
    """A list of delays, each used once; then it gives up. Two delays are three tries."""

    def __init__(self, delays: Sequence[Duration], *, jitter: float = JITTER) -> None:
        self._delays = _listed(delays)
        self._jitter = _fraction(jitter)

    def delay(self, attempt: int, /) -> float | None:
        if attempt > len(self._delays):
            return None
        return _jittered(self._delays[max(attempt, 1) - 1], self._jitter)


class Linear:
    """Delays that grow by the same `step`: `base`, `base + step`, and so on up to `cap`.

    `step` is `base` unless given. `attempts` is the number of tries in all; None: no end.
    """

    def __init__(
        self,
        *,
        base: Duration = 1.0,
        step: Duration | None = None,
        cap: Duration = 60.0,
        jitter: float = JITTER,
        attempts: int | None = None,
    ) -> None:
        self._base = seconds(base)
        self._step = self._base if step is None else seconds(step)
        self._cap = seconds(cap)
        self._jitter = _fraction(jitter)
        self._attempts = _count(attempts)

    def delay(self, attempt: int, /) -> float | None:
        if attempt >= self._attempts:
            return None
        grown = self._base + self._step * (max(attempt, 1) - 1)
        return _capped(grown, self._cap, self._jitter)


class Exponential:
    """Delays that grow by `factor`: `base`, `base * factor`, and so on up to `cap`.

    `attempts` is the number of tries in all; None: no end.
    """

    def __init__(
        self,
        *,
        base: Duration = 0.25,
        factor: float = 2.0,
        cap: Duration = 60.0,
        jitter: float = JITTER,
        attempts: int | None = None,
    ) -> None:
        if isinstance(factor, bool) or not 1 <= factor < math.inf:
            raise ConfigurationError(f"factor {factor!r} would not grow; write a number from 1")
        self._base = seconds(base)
        self._factor = float(factor)
        self._cap = seconds(cap)
        self._jitter = _fraction(jitter)
        self._attempts = _count(attempts)

    def delay(self, attempt: int, /) -> float | None:
        if attempt >= self._attempts:
            return None
        try:
            grown = self._base * self._factor ** (max(attempt, 1) - 1)
        except OverflowError:
            grown = self._cap if self._base else 0.0
        return _capped(grown, self._cap, self._jitter)


def _capped(delay: float, cap: float, jitter: float) -> float:
    """No delay exceeds `cap`, and those at the cap are spread like all others."""
    return _jittered(min(delay, cap / (1 + jitter)), jitter)


def _jittered(delay: float, jitter: float) -> float:
    return delay * random.uniform(1 - jitter, 1 + jitter)


def _listed(delays: Sequence[Duration]) -> tuple[float, ...]:
    if isinstance(delays, str) or not delays:
        raise ConfigurationError(f'{delays!r} is no list of delays; write one like ["1s", "5s"]')
    return tuple(seconds(delay) for delay in delays)


def _fraction(jitter: float) -> float:
    if isinstance(jitter, bool) or not 0 <= jitter <= 1:
        raise ConfigurationError(f"jitter {jitter!r} is no share; write a number from 0 to 1")
    return float(jitter)


def _count(attempts: int | None) -> float:
    if attempts is None:
        return math.inf
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        raise ConfigurationError(f"attempts {attempts!r} is no whole number from 1")
    return attempts
