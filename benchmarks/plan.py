"""The parts of a run, and the order of their measurements."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from benchmarks import measurements as m
from benchmarks import starts, times
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


def measures(only: str | None) -> list[Measure]:
    """Return each measurement of the part `only` once; None: of all parts."""
    chosen = [PARTS[only]] if only else PARTS.values()
    return list(dict.fromkeys(measure for part in chosen for measure in part))
