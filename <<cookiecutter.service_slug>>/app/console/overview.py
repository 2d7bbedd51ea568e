"""The first page's content: what works, how much waits and moves, in words and small charts.

The page and the answers to its script are made from the same `Overview`, so they agree.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

from app.bridge import Bridge, Check
from app.console import texts
from app.console.charts import Chart, chart
from app.console.readings import KEPT, Consumers, Reading, Readings
from app.health import Health
from app.settings import Settings

State = Literal["ok", "warn", "bad", "unknown"]


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the system, and how it is."""

    key: str
    name: str
    state: State
    label: str
    detail: str


@dataclass(frozen=True, slots=True)
class Figure:
    """One number, what belongs to it, and how it went."""

    key: str
    name: str
    value: str
    unit: str
    note: str
    chart: Chart


@dataclass(frozen=True, slots=True)
class Overview:
    """What the first page shows."""

    reading: Reading
    parts: list[Part]
    figures: list[Figure]
    uses_outbox: bool

    @property
    def paused(self) -> bool:
        return self.reading.paused_since.value is not None

    @property
    def can_pause(self) -> bool:
        return self.uses_outbox and self.reading.paused_since.unknown is None

    @property
    def failed(self) -> int:
        return self.reading.failed or 0


async def overview(
    readings: Readings, health: Health, bridge: Bridge, settings: Settings
) -> Overview:
    """Look at everything; each part has a time limit of its own."""
    reading, checks = await asyncio.gather(readings.latest(), health.checks())
    parts = [
        _nats(reading, bridge, checks),
        _database(checks),
        _relay(reading, settings, checks.get("relay")),
        _workers(reading),
    ]
    figures = _figures(reading, readings.history, settings)
    return Overview(reading, parts, figures, settings.use_outbox)


# --- parts


def _nats(reading: Reading, bridge: Bridge, checks: dict[str, Check]) -> Part:
    connection = bridge.connection
    if not connection.connected:
        return Part("nats", "NATS", "bad", "Not connected", connection.explain())
    fault = next((checks[name].detail for name in ("nats", "stream") if not checks[name].ok), None)
    if fault is not None:
        return Part("nats", "NATS", "warn", "Connected, with a fault", fault)
    rtt = reading.rtt.value
    trip = f"round trip {rtt * 1000:.1f} ms" if rtt is not None else f"{reading.rtt.unknown}"
    state: State = "ok" if rtt is not None else "warn"
    return Part("nats", "NATS", state, "Connected", f"stream {bridge.config.stream}, {trip}")


def _database(checks: dict[str, Check]) -> Part:
    if not checks["database"].ok:
        return Part("database", "Database", "bad", "No answer", checks["database"].detail or "")
    if not checks["migrations"].ok:
        detail = checks["migrations"].detail or ""
        return Part("database", "Database", "warn", "Migrations missing", detail)
    return Part("database", "Database", "ok", "Answers", "all migrations are applied")


def _relay(reading: Reading, settings: Settings, check: Check | None) -> Part:
    def part(state: State, label: str, detail: str) -> Part:
        return Part("relay", "Relay", state, label, detail)

    since = reading.paused_since.value
    if not settings.use_outbox:
        return part("unknown", "Not used", "USE_OUTBOX=false: events are sent at once")
    if since is not None:
        moment = texts.moment(since)
        return part("warn", "Paused", f"on every replica since {moment.exact}")
    if check is None:
        return part("unknown", "Not in this process", "RELAY_ENABLED=false: another one relays")
    if not check.ok:
        return part("bad", "Held up", check.detail or "")
    return part("ok", "Relaying", "in this process; others may relay too")


def _workers(reading: Reading) -> Part:
    def part(state: State, label: str, detail: str) -> Part:
        return Part("workers", "Workers", state, label, detail)

    consumers: Consumers | None = reading.consumers.value
    if consumers is None:
        return part("unknown", "Unknown", reading.consumers.unknown or "")
    there, missing = consumers
    if missing:
        return part("bad", "Consumer missing", f"{', '.join(missing)}: no worker made it yet")
    hand = sum(consumer.num_ack_pending for consumer in there)
    idle = [consumer for consumer in there if not consumer.num_waiting]
    detail = f"{len(there)} {'consumer' if len(there) == 1 else 'consumers'}, {hand} in hand"
    if not idle:
        return part("ok", "Asking for events", detail)
    names = ", ".join(consumer.name for consumer in idle)
    if any(not consumer.num_ack_pending for consumer in idle):
        return part("bad", "Nobody asks", f"no worker asks {names} for events")
    return part("warn", "Busy, or gone", f"{hand} in hand, and nobody asks {names} for more")


# --- figures

_FIGURES = (
    ("pending", "Waiting to be sent", "events"),
    ("published", "Published", "per second"),
    ("lag", "Waiting for the workers", "events"),
    ("handled", "Handled", "per second"),
    ("failed", "Failed in the outbox", "events"),
    ("letters", "Dead letters", "events"),
)


def _figures(reading: Reading, history: list[Reading], settings: Settings) -> list[Figure]:
    moments = [(one.at - reading.at + KEPT) / KEPT for one in history]

    def figure(key: str, name: str, unit: str, note: str, series: list[float | None]) -> Figure:
        last = series[-1]
        value = texts.UNKNOWN if last is None else texts.number(last)
        fitting = "event" if (unit, last) == ("events", 1) else unit
        return Figure(key, name, value, fitting, note, chart(moments, series))

    outbox, inbox = settings.use_outbox, settings.use_inbox
    notes = _notes(reading, outbox=outbox, inbox=inbox)
    series: dict[str, list[float | None]] = {
        "pending": [one.pending if outbox else None for one in history],
        "published": [one.published if outbox else None for one in history],
        "lag": [one.lag for one in history],
        "handled": [one.handled if inbox else None for one in history],
        "failed": [one.failed if outbox else None for one in history],
        "letters": [one.letters.value for one in history],
    }
    return [figure(key, name, unit, notes[key], series[key]) for key, name, unit in _FIGURES]


def _notes(reading: Reading, *, outbox: bool, inbox: bool) -> dict[str, str]:
    """Say what each number means, or why there is none."""
    no_outbox = None if outbox else "USE_OUTBOX=false"
    no_inbox = None if inbox else "USE_INBOX=false"
    return {
        "pending": no_outbox or _oldest(reading),
        "published": no_outbox or reading.flow.unknown or "left the outbox, all replicas",
        "lag": reading.consumers.unknown or "those in hand included",
        "handled": no_inbox or reading.flow.unknown or "the last 10 s, all workers",
        "failed": no_outbox or reading.backlog.unknown or "until somebody retries them",
        "letters": reading.letters.unknown or "that no handler took",
    }


def _oldest(reading: Reading) -> str:
    backlog = reading.backlog.value
    if backlog is None:
        return reading.backlog.unknown or ""
    if backlog.oldest_pending_seconds is None:
        return "nothing waits"
    return f"the oldest for {texts.span(backlog.oldest_pending_seconds)}"
