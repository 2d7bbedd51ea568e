"""The trace that an event belongs to, in the log lines and spans of whatever handles it."""

from __future__ import annotations

from typing import Any

from opentelemetry import propagate, trace
from structlog.contextvars import bound_contextvars

from ..event import Event
from .chain import CallNext


class Tracing:
    """Continues the W3C trace of the event's headers, and binds its ids to every log line.

    Events that the handler publishes carry the trace on. Spans are recorded only where the
    process has configured OpenTelemetry; without that nothing is exported.
    """

    async def __call__(self, event: Event[Any], call_next: CallNext) -> None:
        headers = {name.lower(): value for name, value in event.metadata.headers.items()}
        context = propagate.extract(headers)
        tracer = trace.get_tracer("app.bridge")
        with (
            tracer.start_as_current_span(
                f"handle {event.type}",
                context=context,
                kind=trace.SpanKind.CONSUMER,
                attributes={
                    "messaging.system": "nats",
                    "messaging.operation.type": "process",
                    "messaging.destination.name": event.metadata.subject,
                    "messaging.consumer.group.name": event.metadata.consumer,
                    "messaging.message.id": event.event_id,
                },
            ) as span,
            bound_contextvars(trace_id=event.trace_id, event_id=event.event_id, **_of_span(span)),
        ):
            await call_next(event)


def _of_span(span: trace.Span) -> dict[str, str]:
    """The W3C ids, beside the envelope's own trace id, which need not be one."""
    found = span.get_span_context()
    if not found.is_valid:
        return {}
    carrier: dict[str, str] = {}
    propagate.inject(carrier, trace.set_span_in_context(span))
    return {"traceparent": carrier["traceparent"]} if "traceparent" in carrier else {}
