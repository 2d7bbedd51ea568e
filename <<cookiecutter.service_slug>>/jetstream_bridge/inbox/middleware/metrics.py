"""What is counted of consuming, for Prometheus and for callbacks.

Label values are bounded: an event type is the pattern that a handler is registered for, or
`other`. What a sender writes never becomes a label.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from jetstream_bridge.core.errors import RegistrationError
from jetstream_bridge.events.event import Event
from jetstream_bridge.inbox.middleware.ended import Ended

_HANDLER_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
END_TO_END_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86400)


@dataclass(frozen=True, slots=True)
class _Collectors:
    consumed: Counter
    handler: Histogram
    end_to_end: Histogram


@cache
def _collectors(registry: CollectorRegistry) -> _Collectors:
    """One set for each registry, which refuses a second one of the same names."""
    return _Collectors(
        Counter(
            "bridge_consumed_total",
            "Deliveries by how they ended, counted when that is settled",
            ("event_type", "outcome"),
            registry=registry,
        ),
        Histogram(
            "bridge_handler_seconds",
            "Time in the handler and its middlewares",
            ("event_type",),
            registry=registry,
            buckets=_HANDLER_BUCKETS,
        ),
        Histogram(
            "bridge_end_to_end_seconds",
            "From when an event occurred, in whole seconds, until its effect was committed",
            registry=registry,
            buckets=END_TO_END_BUCKETS,
        ),
    )


class Metrics:
    """Counts how events end, how long handlers take and how old events are when handled.

    `on_success(event, seconds)` is called after the commit, `on_failure(event, error)` when the
    event is to be tried again or was dead-lettered after its handler was called. Both are plain
    functions that return at once; what they raise is logged and changes nothing.
    """

    def __init__(
        self,
        *,
        on_success: Callable[[Event[Any], float], None] | None = None,
        on_failure: Callable[[Event[Any], Exception], None] | None = None,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        for name, callback in (("on_success", on_success), ("on_failure", on_failure)):
            if inspect.iscoroutinefunction(callback):
                raise RegistrationError(f"{name} is told and returns at once; write `def`")
        self._on_success = on_success
        self._on_failure = on_failure
        collectors = _collectors(registry)
        self._consumed = cache(collectors.consumed.labels)  # finding one's labels is half the cost
        self._handler = cache(collectors.handler.labels)
        self._end_to_end = collectors.end_to_end

    def ended(self, end: Ended) -> None:
        self._consumed(end.pattern, end.outcome).inc()
        if end.seconds is not None:
            self._handler(end.pattern).observe(end.seconds)
        if end.outcome == "processed" and end.occurred_at is not None:
            age = (datetime.now(UTC) - end.occurred_at).total_seconds()
            self._end_to_end.observe(max(0.0, age))
        self._call_back(end)

    def _call_back(self, end: Ended) -> None:
        if end.event is None:
            return
        if end.error is not None:
            if self._on_failure is not None:
                self._on_failure(end.event, end.error)
        elif end.outcome == "processed" and self._on_success is not None:
            self._on_success(end.event, end.seconds or 0.0)
