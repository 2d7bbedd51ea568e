"""Spans leave the process only where the environment says where to."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest
import structlog
from opentelemetry import trace

from app.settings import ROOT, Settings
from jetstream_bridge.service import telemetry
from tests.service.conftest import MakeSettings
from tests.service.otlp_collector import Collector

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


async def refreshed() -> None:
    """There is nothing to read first."""


def start_exporting(signal: str, settings: Settings) -> None:
    if signal == "spans":
        telemetry.configure_tracing(settings)
    else:
        assert telemetry.otlp_metrics(settings, refreshed) is None


@pytest.mark.parametrize(
    ("signal", "exporter", "module"),
    [
        ("spans", "OTEL_TRACES_EXPORTER", "trace_exporter"),
        ("metrics", "OTEL_METRICS_EXPORTER", "metric_exporter"),
    ],
)
@pytest.mark.parametrize(
    ("variable", "value", "warning"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'"),
        ("OTEL_LOGS_EXPORTER", "otlp", "pip install '.[otel]'"),
        ("OTEL_SDK_DISABLED", "true", None),
        ("EXPORTER", "none", None),
    ],
)
def test_what_keeps_a_signal_from_being_exported_is_said(
    signal: str,
    exporter: str,
    module: str,
    variable: str,
    value: str,
    warning: str | None,
    make_settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(exporter if variable == "EXPORTER" else variable, value)
    # As in a process where the extra is not installed.
    monkeypatch.setitem(sys.modules, f"opentelemetry.exporter.otlp.proto.http.{module}", None)
    with structlog.testing.capture_logs() as logged:
        start_exporting(signal, make_settings())
    lines = [line["event"] for line in logged]
    assert len(lines) == (warning is not None)
    assert (warning or "") in "".join(lines)
    assert all(line.startswith(f"no {signal} are exported") for line in lines)


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
