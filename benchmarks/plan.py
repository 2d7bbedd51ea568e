"""The parts of a run, and the order of their measurements."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from benchmarks import growth, starts, times
from benchmarks import measurements as m
from benchmarks.measurements import Sizes, Values
from benchmarks.stage import Stage

Measure = Callable[[Stage, Sizes], Awaitable[Values]]

PARTS: dict[str, tuple[Measure, ...]] = {
    "relay": (m.relay_raw, m.relay, m.relay_hot, m.relay_txoutbox, m.relay_faststream_outbox),
    "consume": (
        m.consume_raw_batch,
        m.consume_raw_each,
        m.consume,
        m.consume_batch_handler,
        m.consume_faststream,
    ),
    # `relay` is what these are compared with.
    "constancy": (m.relay, m.relay_beside_sent, m.relay_beside_blocked, m.relay_beside_snapshot),
    "latency": (times.latency, times.latency_500),
    "post": (times.post,),
    "start": (starts.start,),
}

# A run by itself: it takes as long as all the others together.
GROWTH: tuple[Measure, ...] = (
    m.relay,
    m.relay_beside_sent,
    growth.relay_5m_sent,
    growth.relay_backlog_1k,
    growth.relay_backlog_100k,
    growth.relay_backlog_1m,
    m.consume,
    growth.consume_1m_processed,
    growth.consume_5m_processed,
    growth.consume_backlog_100k,
    growth.consume_backlog_1m,
    growth.hour,
)
ONCE: tuple[Measure, ...] = (growth.hour,)  # in the first round only: it is as long as an hour


def measures(only: str | None) -> list[Measure]:
    """Return each measurement of the part `only` once; None: of all parts but `growth`."""
    if only == "growth":
        return list(GROWTH)
    chosen = [PARTS[only]] if only else PARTS.values()
    return list(dict.fromkeys(measure for part in chosen for measure in part))
