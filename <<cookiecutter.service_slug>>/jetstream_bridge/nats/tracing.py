"""The traces that events belong to, and the spans of their publishing.

An event carries the trace of whoever announced it, in its headers. What handles it and what sends
it are both children of that; sending changes no header, so a second try is the same message.

Spans of publishing are made when their outcome is settled, with the times that it had. A process
without an OpenTelemetry SDK pays for one look for each claim of its relay, and for no event.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from opentelemetry import context as contexts
from opentelemetry import propagate, trace

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.events.wire_rules import GEM_ID_HEADER
from jetstream_bridge.nats.outgoing import Outcome, Outgoing

TRACER = "jetstream_bridge"

_NO_PROVIDERS = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)
_NOBODYS = contexts.Context()
_SECOND = 1_000_000_000  # nanoseconds


def recording() -> bool:
    """Whether this process has a tracer provider, so that a span may come of what is begun."""
    return not isinstance(trace.get_tracer_provider(), _NO_PROVIDERS)


def context_of(headers: Mapping[str, str]) -> contexts.Context:
    """Return the context that an event's headers tell of; an empty one without any."""
    carrier = {
        name: value for key, value in headers.items() if (name := key.lower()) != GEM_ID_HEADER
    }
    return propagate.extract(carrier, _NOBODYS) if carrier else _NOBODYS


def record_published(messages: Iterable[Outgoing]) -> None:
    """Record a span for each message that was answered, or waited for its answer in vain."""
    if not recording():
        return
    tracer = trace.get_tracer(TRACER)
    wall, now = time.time_ns(), loop_time()
    for message in messages:
        if message.settled_at is None or message.outcome is Outcome.NOT_SENT:
            continue
        end = wall - int((now - message.settled_at) * _SECOND)
        span = tracer.start_span(
            f"publish {message.subject}",
            context=context_of(message.headers),
            kind=trace.SpanKind.PRODUCER,
            attributes=_attributes(message),
            start_time=end - int(message.took * _SECOND),
        )
        if message.outcome is not Outcome.STORED:
            span.set_status(trace.StatusCode.ERROR, message.error)
        span.end(end)


def _attributes(message: Outgoing) -> dict[str, str | int]:
    ids = [value for name, value in message.headers.items() if name.lower() == GEM_ID_HEADER]
    return {
        "messaging.system": "nats",
        "messaging.operation.type": "send",
        "messaging.destination.name": message.subject,
        "messaging.message.id": ids[0] if ids else "",
        "messaging.message.body.size": len(message.body),
    }
