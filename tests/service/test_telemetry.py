"""Spans leave the process only where the environment says where to."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import structlog
from opentelemetry import trace

from app.settings import ROOT
from jetstream_bridge.service import telemetry
from tests.service.conftest import MakeSettings

# Starts as uvicorn would, and then announces that a span was recorded, if any.
_PROCESS = """
import asyncio, sys
from app.main import app
from jetstream_bridge.nats.tracing import TRACER
from jetstream_bridge.service.telemetry import flush_spans
from opentelemetry import trace

with trace.get_tracer(TRACER).start_as_current_span("handle order.placed") as span:
    print("recording:", span.is_recording())
asyncio.run(flush_spans())
print("imported:", any(name.startswith("opentelemetry.sdk") for name in sys.modules))
"""


def _run(**environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    settings = {
        "APP_NAME": "orders",
        "DESTINATION_APP": "billing",
        "DATABASE_URL": "sqlite+aiosqlite:///unused.sqlite3",
    }
    return subprocess.run(
        [sys.executable, "-c", _PROCESS],
        cwd=ROOT,
        env=kept | settings | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout


class Collector(HTTPServer):
    """Takes what is exported over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Post)
        self.taken: list[tuple[str, bytes]] = []


class _Post(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        collector = self.server
        assert isinstance(collector, Collector)
        body = self.rfile.read(int(self.headers["content-length"]))
        collector.taken.append((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, args=(0.01,))
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


@pytest.mark.real
def test_without_an_endpoint_nothing_is_recorded_and_no_sdk_is_imported() -> None:
    assert _run() == "recording: False\nimported: False\n"


@pytest.mark.real
def test_with_an_endpoint_spans_go_there_with_the_services_name(collector: Collector) -> None:
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    assert _run(
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_COMPRESSION="none"
    ).startswith("recording: True\n")
    [(path, body)] = collector.taken
    assert path == "/v1/traces"
    for part in (b"handle order.placed", b"service.name", b"orders", b"deployment.environment"):
        assert part in body


@pytest.mark.parametrize(
    ("environment", "warning"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'"),
        ({}, "pip install '.[otel]'"),
        ({"OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_what_keeps_spans_from_being_exported_is_said(
    environment: Mapping[str, str],
    warning: str | None,
    make_settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # As in a process where the extra is not installed.
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with structlog.testing.capture_logs() as logged:
        telemetry.configure_tracing(make_settings())
    lines = [line["event"] for line in logged]
    assert len(lines) == (warning is not None)
    assert (warning or "") in "".join(lines)


async def test_a_collector_that_hangs_does_not_keep_a_process_from_stopping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = threading.Event()

    class Provider(trace.NoOpTracerProvider):
        def force_flush(self) -> bool:
            return answered.wait(10)

    monkeypatch.setattr(trace, "_TRACER_PROVIDER", Provider())
    monkeypatch.setattr(telemetry, "FLUSH_WITHIN", 0.05)
    began = time.monotonic()
    with structlog.testing.capture_logs() as logged:
        await telemetry.flush_spans()
    assert time.monotonic() - began < 5
    assert [line["event"] for line in logged] == [
        "the last spans were not sent: the collector does not answer"
    ]
    answered.set()
