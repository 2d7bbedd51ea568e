"""The first page's content: what works, how much waits and moves, in words and small charts.

The page and the answers to its script are made from the same `Overview`, so they agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jetstream_bridge.bridge import Bridge
from jetstream_bridge.operations.open_transactions import MANY_DEAD, OpenTransaction
from jetstream_bridge.operations.readiness import Check
from jetstream_bridge.service.health import Health
from jetstream_bridge.service.settings import BridgeSettings
from jetstream_bridge.web.console import formatting as texts
from jetstream_bridge.web.console.charts import Chart, chart
from jetstream_bridge.web.console.snapshots import KEPT, Consumers, Snapshot, SnapshotCache

State = Literal["ok", "warn", "bad", "unknown"]

OLD_TRANSACTION = 60.0  # seconds; the relay's and the handlers' end within their limits
LONG_PENDING = 60.0  # seconds; a relay that runs takes an event within one or two


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    """One part of the system, and how it is."""

    key: str
    name: str
    state: State
    label: str
    detail: str
    place: str | None  # the page that tells more


@dataclass(frozen=True, slots=True)
class KeyFigure:
    """One number, what belongs to it, and how it went."""

    key: str
    name: str
    value: str
    unit: str
    note: str
    chart: Chart
    state: State
    place: str  # the page that shows what is counted
    query: dict[str, str]


@dataclass(frozen=True, slots=True)
class Overview:
    """What the first page shows."""

    reading: Snapshot
    parts: list[ComponentStatus]
    figures: list[KeyFigure]
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
    readings: SnapshotCache, health: Health, bridge: Bridge, settings: BridgeSettings
) -> Overview:
    """Look at everything; each part has a time limit of its own."""
    reading, checks = await asyncio.gather(readings.latest(), health.checks())
    parts = [
        _nats(reading, bridge, checks),
        _database(reading, checks),
        _relay(reading, settings, checks.get("relay")),
        _workers(reading),
        _process(checks),
    ]
    workers = next(part.state for part in parts if part.key == "workers")
    figures = _figures(reading, readings.history, settings, workers)
    return Overview(reading, parts, figures, settings.use_outbox)


# --- parts


def _nats(reading: Snapshot, bridge: Bridge, checks: dict[str, Check]) -> ComponentStatus:
    def part(state: State, label: str, detail: str) -> ComponentStatus:
        return ComponentStatus("nats", "NATS", state, label, detail, "topology")

    connection = bridge.connection
    if not connection.connected:
        return part("bad", "Not connected", connection.explain())
    fault = next((checks[name].detail for name in ("nats", "stream") if not checks[name].ok), None)
    if fault is not None:
        return part("warn", "Connected, not ready", fault)
    rtt = reading.rtt.value
    trip = f"round trip {rtt * 1000:.1f} ms" if rtt is not None else f"{reading.rtt.unknown}"
    state: State = "ok" if rtt is not None else "warn"
    return part(state, "Connected", f"stream {bridge.config.stream}, {trip}")


def _database(reading: Snapshot, checks: dict[str, Check]) -> ComponentStatus:
    def part(state: State, label: str, detail: str) -> ComponentStatus:
        return ComponentStatus("database", "Database", state, label, detail, None)

    if not checks["database"].ok:
        return part("bad", "Not available", checks["database"].detail or "")
    if not checks["migrations"].ok:
        return part("warn", "Migrations missing", checks["migrations"].detail or "")
    transaction = reading.transaction.value
    if transaction is None or transaction.seconds < OLD_TRANSACTION:
        return _vacuumed(part, reading.dead_rows.value)
    return part("warn", "Connected, old transaction", _told(transaction))


def _vacuumed(
    part: Callable[[State, str, str], ComponentStatus], dead: int | None
) -> ComponentStatus:
    if dead is None:
        return part("ok", "Connected", "all migrations applied")
    if dead < MANY_DEAD:
        return part("ok", "Connected", f"all migrations applied, {dead:,} dead rows")
    return part("warn", "Connected, vacuum is behind", f"{dead:,} dead rows in outbox and inbox")


def _told(transaction: OpenTransaction) -> str:
    who = ", ".join(part for part in (transaction.program, transaction.state) if part)
    return (
        f"open for {texts.span(transaction.seconds)}: pid {transaction.pid}"
        f"{f' ({who})' if who else ''}"
    )


def _relay(reading: Snapshot, settings: BridgeSettings, check: Check | None) -> ComponentStatus:
    def part(state: State, label: str, detail: str) -> ComponentStatus:
        return ComponentStatus("relay", "Relay", state, label, detail, "outbox")

    since = reading.paused_since.value
    if not settings.use_outbox:
        return part("unknown", "Not used", "USE_OUTBOX=false: events are sent at once")
    if since is not None:
        moment = texts.moment(since)
        return part("warn", "Paused", f"on every replica since {moment.exact}")
    if check is None:
        return part("unknown", "Not in this process", "RELAY_ENABLED=false: another one relays")
    if not check.ok:
        return part("bad", "Stalled", check.detail or "")
    return part("ok", "Running", "in this process; others may relay too")


def _workers(reading: Snapshot) -> ComponentStatus:
    def part(state: State, label: str, detail: str) -> ComponentStatus:
        return ComponentStatus("workers", "Workers", state, label, detail, "topology")

    consumers: Consumers | None = reading.consumers.value
    if consumers is None:
        return part("unknown", "Unknown", reading.consumers.unknown or "")
    there, missing = consumers
    if missing:
        return part("bad", "Consumer missing", f"{', '.join(missing)}: no worker made it yet")
    acks = f"{_of(sum(one.num_ack_pending for one in there), 'pending ack')}"
    idle = [consumer for consumer in there if not consumer.num_waiting]
    if not idle:
        pulls = _of(sum(one.num_waiting for one in there), "waiting pull")
        return part("ok", "Active", f"{_of(len(there), 'consumer')}, {pulls}, {acks}")
    names = ", ".join(consumer.name for consumer in idle)
    if any(not consumer.num_ack_pending for consumer in idle):
        return part("bad", "No worker", f"no waiting pulls on {names}")
    return part("warn", "Busy, or gone", f"{acks}, no waiting pulls on {names}")


def _of(count: int, one: str) -> str:
    return f"{texts.number(count)} {one}{'' if count == 1 else 's'}"


def _process(checks: dict[str, Check]) -> ComponentStatus:
    """The background tasks of the process that answers; those of others are theirs to show."""
    check = checks["tasks"]
    state: State = "ok" if check.ok else "bad"
    label = "Running" if check.ok else "A task died"
    detail = check.detail or "all background tasks run"
    return ComponentStatus("process", "This process", state, label, detail, None)


# --- figures

# Key, name, unit, the page that shows what is counted, and its filter.
_FIGURES: tuple[tuple[str, str, str, str, dict[str, str]], ...] = (
    ("pending", "Pending in the outbox", "events", "outbox", {"status": "pending"}),
    ("published", "Published", "per second", "outbox", {"status": "sent"}),
    ("lag", "Consumer lag", "events", "topology", {}),
    ("handled", "Processed", "per second", "inbox", {"status": "processed"}),
    ("failed", "Failed in the outbox", "events", "outbox", {"status": "failed"}),
    ("letters", "Dead letters", "events", "dead-letters", {}),
)


def _figures(
    reading: Snapshot, history: list[Snapshot], settings: BridgeSettings, workers: State
) -> list[KeyFigure]:
    moments = [(one.at - reading.at + KEPT) / KEPT for one in history]
    outbox, inbox = settings.use_outbox, settings.use_inbox
    notes = _notes(reading, outbox=outbox, inbox=inbox)
    states = _states(reading, workers)
    series: dict[str, list[float | None]] = {
        "pending": [one.pending if outbox else None for one in history],
        "published": [one.published if outbox else None for one in history],
        "lag": [one.lag for one in history],
        "handled": [one.handled if inbox else None for one in history],
        "failed": [one.failed if outbox else None for one in history],
        "letters": [one.letters.value for one in history],
    }
    figures = []
    for key, name, unit, place, query in _FIGURES:
        last = series[key][-1]
        value = texts.UNKNOWN if last is None else texts.number(last)
        fitting = "event" if (unit, last) == ("events", 1) else unit
        drawn = chart(moments, series[key])
        state = states.get(key, "ok") if last is not None else "unknown"
        figures.append(KeyFigure(key, name, value, fitting, notes[key], drawn, state, place, query))
    return figures


def _states(reading: Snapshot, workers: State) -> dict[str, State]:
    """What of the numbers wants a person, and what may want one soon."""
    backlog = reading.backlog.value
    waits = backlog is not None and (
        backlog.held > 0 or (backlog.oldest_pending_seconds or 0.0) > LONG_PENDING
    )
    states: dict[str, State] = {}
    if waits:
        states["pending"] = "warn"
    if reading.lag and workers in ("bad", "warn"):
        states["lag"] = workers
    if reading.failed:
        states["failed"] = "bad"
    if reading.letters.value:
        states["letters"] = "bad"
    return states


def _notes(reading: Snapshot, *, outbox: bool, inbox: bool) -> dict[str, str]:
    """Say what each number means, or why there is none."""
    no_outbox = None if outbox else "USE_OUTBOX=false"
    no_inbox = None if inbox else "USE_INBOX=false"
    return {
        "pending": no_outbox or _oldest(reading),
        "published": no_outbox or reading.flow.unknown or "by all replicas",
        "lag": reading.consumers.unknown or "not delivered, or pending acks",
        "handled": no_inbox or reading.flow.unknown or "the last 10 s, all workers",
        "failed": no_outbox or reading.backlog.unknown or "until somebody retries them",
        "letters": reading.letters.unknown or "until somebody replays or discards them",
    }


def _oldest(reading: Snapshot) -> str:
    backlog = reading.backlog.value
    if backlog is None:
        return reading.backlog.unknown or ""
    if backlog.oldest_pending_seconds is None:
        return "nothing waits"
    oldest = f"the oldest for {texts.span(backlog.oldest_pending_seconds)}"
    return f"{oldest}, {texts.number(backlog.held)} blocked" if backlog.held else oldest
