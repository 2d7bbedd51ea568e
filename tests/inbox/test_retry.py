"""Retry strategies: how long until the next try, and when there is none."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetstream_bridge import Backoff, Delays, Exponential, Linear, RetryStrategy
from jetstream_bridge.core.errors import ConfigurationError


def delays(strategy: RetryStrategy, count: int = 6) -> list[float]:
    """The first delays, up to the moment when the strategy gives up."""
    found = (strategy.delay(attempt) for attempt in range(1, count + 1))
    return [
        delay for delay in takewhile(lambda delay: delay is not None, found) if delay is not None
    ]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Exponential(base=1, factor=2, cap=60, jitter=0), [1, 2, 4, 8, 16, 32]),
        (Exponential(base="250ms", factor=3, cap="5s", jitter=0), [0.25, 0.75, 2.25, 5, 5, 5]),
        (Exponential(base=1, jitter=0, attempts=3), [1, 2]),
        (Exponential(base=0, jitter=0), [0] * 6),
        (Linear(base="1s", jitter=0), [1, 2, 3, 4, 5, 6]),
        (Linear(base=1, step=0, jitter=0), [1] * 6),
        (Linear(base=1, step="2s", cap="6s", jitter=0), [1, 3, 5, 6, 6, 6]),
        (Linear(base=1, jitter=0, attempts=1), []),
        (Backoff(["1s", 5], jitter=0), [1, 5, 5, 5, 5, 5]),
        (Delays(["1s", "5s"], jitter=0), [1, 5]),
    ],
)
def test_a_strategy_gives_these_delays(strategy: RetryStrategy, expected: list[float]) -> None:
    assert delays(strategy) == expected


@pytest.mark.parametrize(
    "strategy",
    [Exponential(), Linear(), Backoff([1.0]), Delays([1.0])],
    ids=lambda s: type(s).__name__,
)
def test_an_attempt_before_the_first_is_the_first(strategy: RetryStrategy) -> None:
    first = strategy.delay(1)
    assert first is not None
    assert strategy.delay(0) == pytest.approx(first, rel=0.25)


def test_many_tries_overflow_nothing() -> None:
    assert Exponential(base=1, cap=60, jitter=0).delay(100_000) == 60
    assert Exponential(base=0, jitter=0).delay(100_000) == 0


@given(attempt=st.integers(1, 50), jitter=st.floats(0, 1))
def test_jitter_spreads_and_the_cap_holds(attempt: int, jitter: float) -> None:
    delay = Exponential(base=1, factor=2, cap=30, jitter=jitter).delay(attempt)
    assert delay is not None
    assert 0 <= delay <= 30
    plain = min(2.0 ** (attempt - 1), 30 / (1 + jitter))
    assert plain * (1 - jitter) <= delay <= plain * (1 + jitter) * 1.000001


def test_delays_at_the_cap_are_spread_too() -> None:
    strategy = Exponential(base=60, cap=60, jitter=0.5)
    assert len({strategy.delay(1) for _ in range(20)}) > 15


def test_a_class_with_the_method_is_a_strategy() -> None:
    class Never:
        def delay(self, attempt: int) -> float | None:
            return None

    assert isinstance(Never(), RetryStrategy)
    assert not isinstance([1.0], RetryStrategy)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Backoff([]), r"\[\]"),
        (lambda: Delays("1s,5s"), "'1s,5s'"),
        (lambda: Delays(["soon"]), "'soon'"),
        (lambda: Backoff([-1]), "-1"),
        (lambda: Backoff([1], jitter=1.5), "jitter 1.5"),
        (lambda: Backoff([1], jitter=True), "jitter True"),
        (lambda: Linear(base="1 week"), "'1 week'"),
        (lambda: Linear(attempts=0), "attempts 0"),
        (lambda: Exponential(attempts=True), "attempts True"),
        (lambda: Exponential(factor=0.5), "factor 0.5"),
        (lambda: Exponential(factor=float("inf")), "factor inf"),
        (lambda: Exponential(cap="forever"), "'forever'"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(make: Callable[[], Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        make()
