"""Moments as a person reads them at night: how long ago, and not the date."""

from __future__ import annotations

from datetime import UTC, datetime

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0  # seconds


def age(moment: datetime | None) -> str:
    """How long ago `moment` was, like `12m`; a dash when there is none."""
    return "-" if moment is None else span((datetime.now(UTC) - moment).total_seconds())


def until(moment: datetime) -> str:
    """How long it is to `moment`."""
    return span((moment - datetime.now(UTC)).total_seconds())


def span(seconds: float) -> str:
    """Return a length of time in one unit: seconds up to two minutes, days from two days on."""
    seconds = max(0.0, seconds)
    for unit, name, beyond in ((1.0, "s", 2 * _MINUTE), (_MINUTE, "m", 2 * _HOUR)):
        if seconds < beyond:
            return f"{int(seconds // unit)}{name}"
    unit, name = (_HOUR, "h") if seconds < 2 * _DAY else (_DAY, "d")
    return f"{int(seconds // unit)}{name}"


def stamp(moment: datetime) -> str:
    """The moment itself, in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
