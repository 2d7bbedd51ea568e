"""How a delivery ended, told once and only when it is settled.

A middleware sees a handler return inside a transaction that others share and that may still be
rolled back. What is counted or logged as processed is told here, after the commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol, runtime_checkable

from jetstream_bridge.events.event import Event

Outcome = Literal["processed", "duplicate", "ignored", "retried", "dead_lettered"]


@dataclass(slots=True, kw_only=True)  # freezing costs half of making one for each event
class Ended:
    """One delivery's end. Observers share it, and leave it as it is."""

    outcome: Outcome
    event_id: str
    event_type: str  # the sender's, dotted: free text, so no label of a metric
    pattern: str  # the registered pattern that took it; `other` when none did
    resource: str
    trace_id: str | None
    deliveries: int
    occurred_at: datetime | None
    event: Event[Any] | None  # None when no handler was called
    seconds: float | None = None  # in the handler and its middlewares; None: it was not called
    error: Exception | None = None  # of `retried` and `dead_lettered`
    delay: float | None = None  # seconds until the next try, of `retried`


@runtime_checkable
class Observer(Protocol):
    """Is told how each event ended. It must return at once; what it raises is only logged."""

    def ended(self, end: Ended, /) -> None: ...
