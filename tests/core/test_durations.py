"""Durations: what people write, in seconds; nothing is guessed from the size of a number."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetstream_bridge.core.durations import humanize, seconds
from jetstream_bridge.core.errors import ConfigurationError


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("250ms", 0.25),
        ("30s", 30),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86400),
        ("30", 30),
        ("1.5s", 1.5),
        ("0.5", 0.5),
        (" 30s ", 30),
        ("30 s", 30),
        ("0", 0),
        ("1ms", 0.001),
        (30, 30),
        (0.25, 0.25),
        (0, 0),
        # A bare number is seconds, however large.
        ("999", 999),
        ("1000", 1000),
        (1000, 1000),
    ],
)
def test_a_duration_is_read_as_seconds(written: str | float, expected: float) -> None:
    assert seconds(written) == expected


@pytest.mark.parametrize(
    "written",
    [
        *("", " ", "s", "5x", "5 minutes", "-5s", "+5s", "1_000", "1e3", "5,5s", "5s5s", "1h30m"),
        *("nan", "inf", "5S", "\u0663s", "5s\n5s", "9" * 400, "9" * 30 + "d"),
        *(-1, math.nan, math.inf, 10**400, True),
    ],
)
def test_anything_else_is_refused_with_the_value_and_the_rule(written: str | float) -> None:
    with pytest.raises(ConfigurationError, match="is not a duration; write a number") as raised:
        seconds(written)
    assert repr(written) in str(raised.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.25, "250ms"),
        (0.0, "0ms"),
        (1.0, "1s"),
        (90.0, "90s"),
        (120.0, "2m"),
        (7200.0, "2h"),
        (129_600.0, "36h"),
        (604_800.0, "7d"),
        (1234.567, "1234567ms"),
        (1.5, "1500ms"),
    ],
)
def test_seconds_are_shown_in_the_largest_unit_that_keeps_them_whole(
    value: float, expected: str
) -> None:
    assert humanize(value) == expected


@given(st.integers(min_value=0, max_value=10**10))
def test_what_is_shown_reads_back_as_the_same(milliseconds: int) -> None:
    value = milliseconds / 1000
    assert seconds(humanize(value)) == pytest.approx(value, rel=1e-12, abs=1e-9)
