"""What `/metrics` shows goes to a collector too, where the environment names one."""

from __future__ import annotations

import asyncio
import math
import threading
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from jetstream_bridge.outbox.metrics import BatchHistogram
from jetstream_bridge.service import telemetry
from jetstream_bridge.service.otlp_metrics import OtlpMetrics, metrics_data
from jetstream_bridge.service.runtime import running
from tests.service.conftest import MakeSettings
from tests.service.otlp_collector import Collector
from tests.service.test_telemetry import refreshed
from tests.waiting import eventually

RESOURCE = Resource({"service.name": "orders"})


@pytest.fixture
def registry() -> CollectorRegistry:
    """Every kind that there is, with values."""
    registry = CollectorRegistry()
    sent = Counter("bridge_sent_total", "Sent", ["result"], registry=registry)
    sent.labels("published").inc(3)
    Gauge("bridge_lag", "Lag", registry=registry).set(7)
    Gauge("bridge_unknown", "Not read", registry=registry).set(math.nan)
    took = Histogram("bridge_took_seconds", "Time", ["type"], registry=registry, buckets=(0.1, 1))
    for seconds in (0.05, 0.5, 0.6, 60):
        took.labels("a").observe(seconds)
    ages = BatchHistogram("bridge_age_seconds", "Age", (1, 10))
    ages.observe([0.5, 5, 50])
    registry.register(ages)
    return registry


def received(collector: Collector) -> dict[str, Any]:
    """The metrics of the last export, by name."""
    path, body = collector.taken[-1]
    assert path == "/v1/metrics"
    [resource] = ExportMetricsServiceRequest.FromString(body).resource_metrics
    names = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert names["service.name"] == "orders"
    [scope] = resource.scope_metrics
    assert scope.scope.name == "jetstream_bridge"
    return {metric.name: metric for metric in scope.metrics}


def exporter(collector: Collector) -> OTLPMetricExporter:
    return OTLPMetricExporter(endpoint=f"http://127.0.0.1:{collector.server_port}/v1/metrics")


async def test_each_kind_arrives_as_it_is(
    collector: Collector, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    sender = OtlpMetrics(exporter(collector), RESOURCE, refreshed, every=60, registry=registry)
    await sender.send(within=5)

    found = received(collector)
    assert set(found) == {"bridge_sent", "bridge_lag", "bridge_took_seconds", "bridge_age_seconds"}
    [sent] = found["bridge_sent"].sum.data_points
    assert found["bridge_sent"].sum.is_monotonic
    assert found["bridge_sent"].sum.aggregation_temporality == 2  # cumulative
    assert (sent.as_double, sent.attributes[0].value.string_value) == (3, "published")
    assert 0 < sent.start_time_unix_nano <= sent.time_unix_nano
    assert found["bridge_lag"].gauge.data_points[0].as_double == 7

    took = found["bridge_took_seconds"]
    [point] = took.histogram.data_points
    assert (took.unit, took.description) == ("s", "Time")
    assert list(point.explicit_bounds) == [0.1, 1]
    assert list(point.bucket_counts) == [1, 2, 1]
    assert (point.count, point.sum) == (4, pytest.approx(61.15))
    assert point.attributes[0].value.string_value == "a"
    [age] = found["bridge_age_seconds"].histogram.data_points
    assert (list(age.bucket_counts), age.sum) == ([1, 1, 1], 55.5)


async def test_a_running_service_sends_its_metrics_and_once_more_when_it_stops(
    collector: Collector,
    make_settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    settings = make_settings(database_url=f"sqlite+aiosqlite:///{tmp_path / 'orders.sqlite3'}")
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{endpoint}/v1/metrics")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
    async with running(settings):
        await eventually(lambda: len(collector.taken) >= 2)
        assert "bridge_info" in received(collector)
        assert "bridge_ready" in received(collector)
    before = len(collector.taken)
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "3600000")
    async with running(settings):
        pass
    assert len(collector.taken) == before + 1


async def test_the_last_export_comes_after_the_one_in_progress(registry: CollectorRegistry) -> None:
    """Whose thread nobody can cancel, and whose numbers are older."""
    answered = threading.Event()
    begun: list[int] = []
    arrived: list[int] = []

    class Slow:
        def export(self, *_: object, **__: object) -> MetricExportResult:
            begun.append(number := len(begun))
            answered.wait(5)
            arrived.append(number)
            return MetricExportResult.SUCCESS

    sender = OtlpMetrics(Slow(), RESOURCE, refreshed, every=0.001, registry=registry)  # type: ignore[arg-type]
    sender.start()
    await eventually(lambda: begun)
    closing = asyncio.create_task(sender.close(within=5))
    await asyncio.wait([closing], timeout=0.05)  # whatever it would send now is on its way
    assert begun == [0]
    answered.set()
    await closing
    assert arrived == [0, 1]


async def test_a_collector_that_hangs_is_told_once_and_keeps_nobody(
    registry: CollectorRegistry,
) -> None:
    answered = threading.Event()

    class Hangs:
        def export(self, *_: object, **__: object) -> MetricExportResult:
            if answered.is_set():
                return MetricExportResult.SUCCESS
            answered.wait(10)
            return MetricExportResult.FAILURE

    sender = OtlpMetrics(Hangs(), RESOURCE, refreshed, every=60, registry=registry)  # type: ignore[arg-type]
    with structlog.testing.capture_logs() as logged:
        await asyncio.gather(sender.send(within=0.05), sender.send(within=0.05))
        answered.set()
        await sender.send(within=5)
    assert [line["event"] for line in logged] == [
        "metrics are not exported: the collector does not answer",
        "metrics are exported again",
    ]


def test_an_interval_that_is_none_is_told(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "soon")
    with structlog.testing.capture_logs() as logged:
        assert telemetry.otlp_metrics(make_settings(), refreshed) is not None
    assert ["'soon', and no number" in line["event"] for line in logged] == [True]


def test_without_an_endpoint_there_is_nothing(make_settings: MakeSettings) -> None:
    assert telemetry.otlp_metrics(make_settings(), refreshed) is None
    assert metrics_data(CollectorRegistry(), RESOURCE, began=0).resource_metrics
