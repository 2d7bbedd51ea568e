"""What the measurements are called, the ratios that come of them, and the goal of each.

It imports nothing of the package: what draws the charts runs in another environment.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TITLES = {
    "relay_raw": "bare relay, own acks, batches of 1,000",
    "relay": "relay, 5,000 resources",
    "relay_hot": "relay, 50 hot resources",
    "relay_txoutbox": "txoutbox",
    "relay_faststream_outbox": "faststream-outbox",
    "relay_1m_sent": "relay, {sent:,} sent rows in the table",
    "relay_50k_blocked": "relay, {blocked:,} rows blocked behind one",
    "relay_open_snapshot": "relay, a snapshot older than {snapshot:,} sent rows",
    "consume_raw_batch": "bare consumer, batches of 500",
    "consume_raw_each": "bare consumer, a commit for each message, 32 at once",
    "consume": "worker, one row through the session for each event",
    "consume_batch_handler": "worker, batch handler, one insert for up to 100 events",
    "consume_faststream": "FastStream, a session for each message",
    "latency_p50": "commit to handler in another process, 50 events/s, p50",
    "latency_p99": "the same, p99",
    "latency_p50_at_500": "commit to handler in another process, 500 events/s, p50",
    "latency_p99_at_500": "the same, p99",
    "post": "`POST` with the outbox, median",
    "post_plain": "the same `POST` without it, median",
    "post_dense": "`POST` with the outbox, one right after the other, median",
    "post_plain_dense": "the same `POST` without it, one right after the other, median",
    "start_cpu": "CPU of `import app.main`",
    "start_cpu_bare": "CPU of importing bare FastAPI with SQLModel",
    "start_memory": "memory after `import app.main`",
    "start_memory_bare": "memory after importing bare FastAPI with SQLModel",
    "relay_5m_sent": "relay, 5,000,000 sent rows in the table",
    "relay_backlog_1k": "relay, 1,000 pending events, which are one claim",
    "relay_backlog_100k": "relay, the first of 100,000 pending events",
    "relay_backlog_1m": "relay, the first of 1,000,000 pending events",
    "consume_1m_processed": "worker, 1,000,000 processed rows in the table",
    "consume_5m_processed": "worker, 5,000,000 processed rows in the table",
    "consume_backlog_100k": "worker, the first of 100,000 messages",
    "consume_backlog_1m": "worker, the first of 1,000,000 messages",
    "hour_relay_memory": "an hour's events: memory of the API with the relay",
    "hour_worker_memory": "an hour's events: memory of the worker",
    "hour_outbox_size": "an hour's events: size of the outbox table with its indexes",
    "hour_inbox_size": "an hour's events: size of the inbox table with its indexes",
    "hour_behind": "an hour's events: the most that were written and not handled, at the end",
}


def title(name: str, sizes: Mapping[str, int]) -> str:
    return TITLES[name].format(**sizes)


def unit(name: str) -> str:
    if name.startswith("start_memory"):
        return "MB"
    if name.startswith("hour"):
        return "events" if name == "hour_behind" else "times"
    return "ms" if name.startswith(("latency", "post", "start")) else "events/s"


@dataclass(frozen=True)
class Ratio:
    """A measurement over another one, or alone; and the goal that it has."""

    over: str
    under: str | None
    goal: str  # "at least" or "at most", and a number
    meaning: str

    def reached(self, value: float) -> bool:
        kind, _, number = self.goal.rpartition(" ")
        return value >= float(number) if kind == "at least" else value <= float(number)


RATIOS: dict[str, Ratio] = {
    "relay_vs_raw": Ratio("relay", "relay_raw", "at least 0.8", "relay to the bare loop"),
    "relay_hot_vs_raw": Ratio(
        "relay_hot", "relay_raw", "at least 0.7", "relay with 50 hot resources to the bare loop"
    ),
    "relay_vs_txoutbox": Ratio("relay", "relay_txoutbox", "at least 1.5", "relay to txoutbox"),
    "relay_vs_faststream_outbox": Ratio(
        "relay", "relay_faststream_outbox", "at least 9", "relay to faststream-outbox"
    ),
    "consume_vs_raw_each": Ratio(
        "consume", "consume_raw_each", "at least 2.5", "worker to bare commits for each message"
    ),
    "consume_vs_raw_batch": Ratio(
        "consume", "consume_raw_batch", "at least 0.5", "worker to the bare batch limit"
    ),
    "consume_batch_handler_vs_raw_each": Ratio(
        "consume_batch_handler",
        "consume_raw_each",
        "at least 4",
        "batch handler to bare commits for each message",
    ),
    "consume_batch_handler_vs_raw_batch": Ratio(
        "consume_batch_handler",
        "consume_raw_batch",
        "at least 0.85",
        "batch handler to the bare batch limit",
    ),
    "consume_vs_faststream": Ratio(
        "consume", "consume_faststream", "at least 12", "worker to FastStream"
    ),
    "post_outbox_overhead": Ratio(
        "post", "post_plain", "at most 1.15", "time of a `POST` with the outbox to one without"
    ),
    "post_outbox_overhead_dense": Ratio(
        "post_dense", "post_plain_dense", "at most 1.15", "the same, one right after the other"
    ),
    "start_cpu_vs_bare": Ratio(
        "start_cpu", "start_cpu_bare", "at most 1.3", "CPU of `import app.main` to a bare one's"
    ),
    "start_memory_vs_bare": Ratio(
        "start_memory", "start_memory_bare", "at most 1.3", "its memory to a bare one's"
    ),
    "relay_slowdown_1m_sent": Ratio(
        "relay", "relay_1m_sent", "at most 1.2", "slower beside a million sent rows"
    ),
    "relay_slowdown_5m_sent": Ratio(
        "relay", "relay_5m_sent", "at most 1.2", "slower beside five million sent rows"
    ),
    "relay_slowdown_backlog_100k": Ratio(
        "relay", "relay_backlog_100k", "at most 1.2", "slower with 100,000 pending events"
    ),
    "relay_slowdown_backlog_1m": Ratio(
        "relay", "relay_backlog_1m", "at most 1.2", "slower with 1,000,000 pending events"
    ),
    "consume_slowdown_1m_processed": Ratio(
        "consume", "consume_1m_processed", "at most 1.2", "slower beside a million processed rows"
    ),
    "consume_slowdown_5m_processed": Ratio(
        "consume", "consume_5m_processed", "at most 1.2", "slower beside five million"
    ),
    "consume_slowdown_backlog_100k": Ratio(
        "consume", "consume_backlog_100k", "at most 1.2", "slower with 100,000 messages"
    ),
    "consume_slowdown_backlog_1m": Ratio(
        "consume", "consume_backlog_1m", "at most 1.2", "slower with 1,000,000 messages"
    ),
    "hour_relay_memory_growth": Ratio(
        "hour_relay_memory", None, "at most 1.1", "the relay's memory, last quarter to second"
    ),
    "hour_worker_memory_growth": Ratio(
        "hour_worker_memory", None, "at most 1.1", "the worker's memory, last quarter to second"
    ),
    "hour_outbox_growth": Ratio(
        "hour_outbox_size", None, "at most 1.2", "the outbox table, last quarter to second"
    ),
    "hour_inbox_growth": Ratio(
        "hour_inbox_size", None, "at most 1.2", "the inbox table, last quarter to second"
    ),
    "relay_slowdown_50k_blocked": Ratio(
        "relay", "relay_50k_blocked", "at most 1.2", "slower beside blocked rows"
    ),
    "relay_slowdown_open_snapshot": Ratio(
        "relay", "relay_open_snapshot", "at most 1.2", "slower beside an old snapshot"
    ),
    "latency_p50_ms": Ratio("latency_p50", None, "at most 15", "commit to handler at 50/s, p50"),
    "latency_p99_ms": Ratio("latency_p99", None, "at most 60", "commit to handler at 50/s, p99"),
    "latency_p50_ms_at_500": Ratio(
        "latency_p50_at_500", None, "at most 15", "commit to handler at 500/s, p50"
    ),
    "latency_p99_ms_at_500": Ratio(
        "latency_p99_at_500", None, "at most 60", "commit to handler at 500/s, p99"
    ),
}


def ratios(rounds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return each ratio whose measurements are there: the median of what it was in each round.

    A machine is not as fast in one round as in the next. What was measured in one round met the
    same machine; the medians of two measurements may come from different rounds.
    """
    return {
        name: round(statistics.median(by_round(name, rounds)), 3)
        for name, ratio in RATIOS.items()
        if ratio.over in rounds and (ratio.under is None or ratio.under in rounds)
    }


def by_round(name: str, rounds: Mapping[str, Sequence[float]]) -> list[float]:
    """Return what the ratio `name` was in each round."""
    ratio = RATIOS[name]
    over = rounds[ratio.over]
    under = [1.0] * len(over) if ratio.under is None else rounds[ratio.under]
    return [first / second for first, second in zip(over, under, strict=True)]
