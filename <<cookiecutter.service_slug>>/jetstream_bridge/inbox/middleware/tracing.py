"""The trace that an event belongs to, in the log lines and spans of whatever handles it.

Most processes record no spans. Those pay for reading the headers and for a context variable.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace
from structlog.contextvars import bind_contextvars, reset_contextvars

from jetstream_bridge.events.event import Event, read_headers
from jetstream_bridge.inbox.middleware.chain import CallNext, CallNextBatch
from jetstream_bridge.nats.tracing import TRACER, context_of, recording

LOOK_EVERY = 1.0  # seconds between two looks whether this process records spans


class Tracing:
    """Continues the W3C trace of the event's headers, and binds its ids to every log line.

    Events that the handler publishes carry the trace on. Spans are recorded only where the
    process has configured OpenTelemetry; without that nothing is exported.
    """

    def __init__(self) -> None:
        self._tracer = trace.get_tracer(TRACER)
        self._records = False
        self._looked_at = -math.inf

    def _recording(self) -> bool:
        """Whether this process records spans, as of a second ago: to look costs more than that
        which depends on it."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_EVERY:
            self._records, self._looked_at = recording(), now
        return self._records

    async def __call__(self, event: Event[Any], call_next: CallNext) -> None:
        parent = context_of(read_headers(event.metadata))
        if not self._recording():
            # What the handler publishes and logs belongs to the event's trace all the same.
            of_span = _of_span(trace.get_current_span(parent)) if parent else {}
            with _Within(parent, trace_id=event.trace_id, event_id=event.event_id, **of_span):
                await call_next(event)
            return
        span = self._tracer.start_span(
            f"handle {event.type}", context=parent, kind=trace.SpanKind.CONSUMER
        )
        if span.is_recording():
            span.set_attributes(_attributes(event))
        with _current(span, parent, trace_id=event.trace_id, event_id=event.event_id):
            await call_next(event)

    async def on_batch(self, events: list[Event[Any]], call_next: CallNextBatch) -> None:
        """One span for the list, linked to each event's trace; the events' ids are not bound."""
        if not self._recording():
            await call_next(events)
            return
        parents = (context_of(read_headers(event.metadata)) for event in events)
        spans = (trace.get_current_span(parent).get_span_context() for parent in parents)
        span = self._tracer.start_span(
            f"handle {events[0].type}",
            kind=trace.SpanKind.CONSUMER,
            links=[trace.Link(context) for context in spans if context.is_valid],
        )
        if span.is_recording():
            span.set_attributes(
                _attributes(events[0]) | {"messaging.batch.message_count": len(events)}
            )
        with _current(span):
            await call_next(events)


class _Within:
    """Work within a context, with `bound` in each log line.

    No generator, which takes as long again as what it does.
    """

    __slots__ = ("_attached", "_bound", "_context", "_tokens")

    def __init__(self, context: contexts.Context, **bound: str) -> None:
        self._context = context
        self._bound = bound

    def __enter__(self) -> None:
        self._attached = contexts.attach(self._context)
        self._tokens = bind_contextvars(**self._bound)

    def __exit__(self, *_: object) -> None:
        reset_contextvars(**self._tokens)
        contexts.detach(self._attached)


@contextmanager
def _current(
    span: trace.Span, parent: contexts.Context | None = None, **bound: str
) -> Iterator[None]:
    """Work within `span`, with `bound` and its ids in each log line; it ends with the block."""
    try:
        with _Within(trace.set_span_in_context(span, parent), **bound, **_of_span(span)):
            yield
    except Exception as error:
        span.record_exception(error)
        span.set_status(trace.StatusCode.ERROR, type(error).__name__)
        raise
    finally:
        span.end()


def _attributes(event: Event[Any]) -> dict[str, str]:
    return {
        "messaging.system": "nats",
        "messaging.operation.type": "process",
        "messaging.destination.name": event.metadata.subject,
        "messaging.consumer.group.name": event.metadata.consumer,
        "messaging.message.id": event.event_id,
    }


def _of_span(span: trace.Span) -> dict[str, str]:
    """The W3C ids, beside the envelope's own trace id, which need not be one."""
    ids = span.get_span_context()
    if not ids.is_valid:
        return {}
    return {"traceparent": f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}"}
