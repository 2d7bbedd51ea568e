"""The trace that a request belongs to: its events carry it on, and its log lines have its id.

Where an OpenTelemetry SDK is configured, FastAPI has opened a span for the request, and that is
current. Without one nothing is recorded here, but a trace that began elsewhere goes through.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from jetstream_bridge.core.logger import structlog

# Not whatever propagators are configured: `baggage` would let every caller write into our events.
_W3C = TraceContextTextMapPropagator()


class RequestTrace:
    """Continues the W3C trace of the request's headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with _continued(Headers(scope=scope)):
            await self._app(scope, receive, send)


@contextmanager
def _continued(headers: Headers) -> Iterator[None]:
    context = contexts.get_current()
    if not trace.get_current_span(context).get_span_context().is_valid:
        given = headers.getlist("traceparent")
        if len(given) != 1:  # two of them say nothing
            yield
            return
        state = ",".join(headers.getlist("tracestate"))
        context = _W3C.extract({"traceparent": given[0], "tracestate": state}, context)
    span = trace.get_current_span(context).get_span_context()
    if not span.is_valid:
        yield
        return
    attached = contexts.attach(context)
    tokens = structlog.contextvars.bind_contextvars(trace_id=trace.format_trace_id(span.trace_id))
    try:
        yield
        # Not after an error: whoever logs that stands outside, and the request's task ends there.
        structlog.contextvars.reset_contextvars(**tokens)
    finally:
        contexts.detach(attached)
