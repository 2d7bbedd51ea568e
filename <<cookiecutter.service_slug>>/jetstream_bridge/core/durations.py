"""Durations as people write them, in seconds as the code uses them.

`250ms`, `30s`, `5m`, `2h`, `1d`, or a bare number of seconds. Seconds are floats everywhere in
the bridge; only what is handed to NATS' own JSON becomes nanoseconds.
"""

from __future__ import annotations

import re

from jetstream_bridge.core.errors import ConfigurationError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
_LONGEST = 290 * 365 * 86400  # NATS counts nanoseconds in 64 bits
_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>ms|s|m|h|d|)", re.ASCII)
_RULE = "write a number with ms, s, m, h or d, like 250ms, 30s, 5m or 1d; a bare number is seconds"


def seconds(value: str | float) -> float:
    """Return `value` in seconds; raise `ConfigurationError` if it is not a duration."""
    if isinstance(value, bool):
        raise ConfigurationError(f"{value!r} is not a duration; {_RULE}")
    if isinstance(value, int | float):
        return _checked(value, value)
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        raise ConfigurationError(f"{value!r} is not a duration; {_RULE}")
    return _checked(float(match["number"]) * _UNITS[match["unit"]], value)


def humanize(value: float) -> str:
    """Return `value` seconds in the largest unit that keeps it whole, like `90s` or `2h`."""
    for unit in ("d", "h", "m", "s"):
        amount = value / _UNITS[unit]
        if amount >= 1 and amount == int(amount):
            return f"{int(amount)}{unit}"
    return f"{value * 1000:.6f}".rstrip("0").rstrip(".") + "ms"


def _checked(number: float, value: object) -> float:
    if not 0 <= number <= _LONGEST:  # not a number is neither
        raise ConfigurationError(f"{value!r} is not a duration; {_RULE}")
    return round(float(number), 9)
