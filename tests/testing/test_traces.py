"""A trace goes from a request through outbox, relay and stream to the other service's handler."""

from __future__ import annotations

import io
import json
import logging
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from app.events import EventsDep
from app.settings import Settings
from jetstream_bridge import Bridge, Consumers, Event
from jetstream_bridge.inbox.middleware import Logging, Tracing
from jetstream_bridge.service.bridge_config import bridge_config
from jetstream_bridge.service.database import open_database
from jetstream_bridge.testing import MockServer, VirtualClock
from tests.apps import make_app
from tests.bridge.support import rows
from tests.logged import logged
from tests.waiting import eventually

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01", "baggage": "user=ada"}


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The process has an SDK, for one test: a provider can be set only once."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    with logged("json") as stream:
        yield stream


@pytest.fixture
async def orders(service_settings: Settings, mock_nats: MockServer) -> AsyncIterator[FastAPI]:
    """The service whose request announces something."""
    app = make_app(service_settings, make_client=mock_nats.client)

    @app.post("/orders")
    async def place(events: EventsDep) -> None:
        logging.getLogger("orders").info("placing an order")
        await events.publish("order.placed", {"id": 1})

    async with app.router.lifespan_context(app):
        yield app


class Billing:
    """The other service, with a database of its own on the same NATS."""

    def __init__(self) -> None:
        self.seen: list[Event[dict[str, Any]]] = []
        self.spans: list[trace.SpanContext] = []
        self.consumers = Consumers()
        self.consumers.use(Tracing(), Logging())

        @self.consumers.on("order.placed")
        async def bill(event: Event[dict[str, Any]]) -> None:
            logging.getLogger("billing").info("billing")
            self.seen.append(event)
            self.spans.append(trace.get_current_span().get_span_context())


@pytest.fixture
async def billing(
    service_settings: Settings, migrated_file: Path, tmp_path: Path, mock_nats: MockServer
) -> AsyncIterator[Billing]:
    path = tmp_path / "billing.sqlite3"
    shutil.copyfile(migrated_file, path)
    settings = service_settings.model_copy(
        update={
            "app_name": "billing",
            "destination_app": "orders",
            "database_url": SecretStr(f"sqlite+aiosqlite:///{path}"),
        }
    )
    billing = Billing()
    database = open_database(settings)
    async with Bridge(
        bridge_config(settings),
        database.sessions,
        consumers=billing.consumers,
        make_client=mock_nats.client,
    ):
        yield billing
    await database.close()


async def place(orders: FastAPI, billing: Billing, **headers: str) -> Event[dict[str, Any]]:
    """Send the request; return the event when the other service has handled it."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(orders), base_url="http://test"
    ) as client:
        answer = await client.post("/orders", headers=headers)
    assert answer.status_code == 200
    await eventually(lambda: len(billing.seen) == 1, what="the event is handled")
    return billing.seen[0]


def told(lines: io.StringIO, event: str) -> dict[str, Any]:
    [line] = [
        line for line in map(json.loads, lines.getvalue().splitlines()) if line["event"] == event
    ]
    return dict(line)


async def test_every_step_of_an_event_is_a_span_of_the_requests_trace(
    exporter: InMemorySpanExporter,
    orders: FastAPI,
    billing: Billing,
    lines: io.StringIO,
    clock: VirtualClock,
) -> None:
    event = await place(orders, billing, **PARENT)
    await eventually(lambda: len(named(exporter)) >= 3, what="three spans")
    spans = named(exporter)
    request, published, handled = (
        spans[name]
        for name in ("POST /orders", "publish test.orders.sync.billing", "handle order.placed")
    )
    assert {span.context.trace_id for span in spans.values()} == {int(TRACE, 16)}
    assert request.parent is not None and f"{request.parent.span_id:016x}" == CALLER
    assert (request.kind, published.kind, handled.kind) == (
        trace.SpanKind.SERVER,
        trace.SpanKind.PRODUCER,
        trace.SpanKind.CONSUMER,
    )
    # What was current when the event was announced is the parent of both; it stands in the row.
    [[headers]] = await rows(
        orders.state.database.engine, "SELECT headers FROM jetstream_outbox_events"
    )
    announcing = json.loads(headers)["traceparent"].split("-")[2]
    assert published.parent is not None and f"{published.parent.span_id:016x}" == announcing
    assert handled.parent is not None and f"{handled.parent.span_id:016x}" == announcing
    inside = {f"{span.context.span_id:016x}": span for span in exporter.get_finished_spans()}
    above = inside[announcing]
    while above is not request:
        assert above.parent is not None
        above = inside[f"{above.parent.span_id:016x}"]
    assert published.start_time is not None and published.end_time is not None
    assert request.start_time is not None
    assert request.start_time <= published.end_time
    for span in (published, handled):
        assert span.attributes is not None
        assert span.attributes["messaging.message.id"] == event.event_id
    assert event.trace_id == TRACE
    assert told(lines, "placing an order")["trace_id"] == TRACE
    assert told(lines, "billing")["trace_id"] == TRACE
    assert told(lines, "event processed")["trace_id"] == TRACE


def named(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """The spans of requests and events; FastAPI's own of what happens in a request left out."""
    internal = trace.SpanKind.INTERNAL
    return {span.name: span for span in exporter.get_finished_spans() if span.kind is not internal}


async def test_without_an_sdk_the_trace_goes_through_as_it_came(
    orders: FastAPI, billing: Billing, lines: io.StringIO, clock: VirtualClock
) -> None:
    event = await place(orders, billing, **PARENT)
    headers = event.metadata.headers
    assert headers["traceparent"] == PARENT["traceparent"]
    assert "baggage" not in headers, "a caller writes nothing else into our events"
    assert event.trace_id == TRACE
    assert f"{billing.spans[0].span_id:016x}" == CALLER
    assert told(lines, "placing an order")["trace_id"] == TRACE
    assert told(lines, "billing")["trace_id"] == TRACE
    assert told(lines, "event processed")["trace_id"] == TRACE


async def test_what_is_logged_of_a_request_that_failed_has_its_trace_too(orders: FastAPI) -> None:
    @orders.get("/broken")
    async def broken() -> None:
        raise ValueError("no")

    transport = httpx.ASGITransport(orders, raise_app_exceptions=False)
    with capture_logs(processors=[merge_contextvars]) as logged:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/broken", headers=PARENT)).status_code == 500
    assert [(line["event"], line["trace_id"]) for line in logged] == [("request failed", TRACE)]


@pytest.mark.parametrize("given", ["", "00-zz", f"00-{TRACE}-{'0' * 16}-01"])
async def test_a_traceparent_that_is_none_starts_no_trace(
    given: str, orders: FastAPI, billing: Billing, lines: io.StringIO, clock: VirtualClock
) -> None:
    event = await place(orders, billing, traceparent=given)
    assert "traceparent" not in event.metadata.headers
    assert "trace_id" not in told(lines, "placing an order")


async def test_what_the_stream_refuses_is_a_failed_span(
    exporter: InMemorySpanExporter,
    orders: FastAPI,
    billing: Billing,
    mock_nats: MockServer,
    clock: VirtualClock,
) -> None:
    mock_nats.faults.refuse_publish(10054)
    await place(orders, billing, **PARENT)
    tries = [span for span in exporter.get_finished_spans() if span.kind is trace.SpanKind.PRODUCER]
    assert [span.status.status_code.name for span in tries] == ["ERROR", "UNSET"]
    assert "10054" in str(tries[0].status.description)


async def test_probes_make_no_spans(exporter: InMemorySpanExporter, orders: FastAPI) -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(orders), base_url="http://test"
    ) as client:
        for path in ("/healthz", "/readyz", "/metrics"):
            await client.get(path)
        await client.get("/nothing")
    assert [span.name for span in exporter.get_finished_spans() if span.parent is None] == ["GET"]
