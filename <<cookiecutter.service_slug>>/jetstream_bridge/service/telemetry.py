"""Whether spans and metrics are exported: only where the environment says where to.

`OTEL_EXPORTER_OTLP_ENDPOINT`, with the packages of the extra `otel`, is all that it takes; the
other `OTEL_*` variables count as the SDK documents them. Without it the SDK is not even imported.
A tracer provider that is there already, `opentelemetry-instrument`'s for instance, is left alone.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Literal

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace

from jetstream_bridge.core.logger import get_logger
from jetstream_bridge.nats.tracing import recording
from jetstream_bridge.service.daemon_thread import in_daemon_thread
from jetstream_bridge.service.settings import BridgeSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from jetstream_bridge.service.otlp_metrics import OtlpMetrics

Signal = Literal["TRACES", "METRICS"]

FLUSH_WITHIN = 3.0  # seconds, of the time that stopping may take
_EVERY = 60_000  # milliseconds between two exports of metrics, as the SDK has it
_WHAT = {"TRACES": "spans", "METRICS": "metrics"}
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})

_log = get_logger(__name__)


def _is_probe(scope: MutableMapping[str, Any]) -> bool:
    return scope.get("path") in _PROBES


# FastAPI would set up exporters of its own: here the worker needs the same, which serves probes.
FASTAPI: TelemetryConfig = {"auto_configure": False, "exclude": _is_probe}


def configure_tracing(settings: BridgeSettings) -> None:
    """Export spans where the environment asks for it; a fault is logged and stops nothing."""
    if not _wanted("TRACES") or recording():
        return
    try:
        _export_spans(settings)
    except ImportError as error:
        _tell_missing("TRACES", error)


def otlp_metrics(
    settings: BridgeSettings, refresh: Callable[[], Awaitable[object]]
) -> OtlpMetrics | None:
    """Return what exports metrics, where the environment asks for it; a fault is logged.

    `refresh` brings the gauges up to date.
    """
    if not _wanted("METRICS"):
        return None
    try:
        return _metrics(settings, refresh)
    except ImportError as error:
        _tell_missing("METRICS", error)
        return None


def _wanted(signal: Signal) -> bool:
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    exporter = os.environ.get(f"OTEL_{signal}_EXPORTER") or "otlp"
    if not _otlp(signal, "ENDPOINT") or disabled or exporter == "none":
        return False
    protocol = _otlp(signal, "PROTOCOL") or "http/protobuf"
    if protocol != "http/protobuf":
        _log.warning(
            f"no {_WHAT[signal]} are exported: OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}; write "
            "http/protobuf, and the collector's port for it, usually 4318"
        )
    return protocol == "http/protobuf"


def _otlp(signal: Signal, name: str) -> str | None:
    """The variable for one signal comes before the one for all of them."""
    return os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_{name}") or os.environ.get(
        f"OTEL_EXPORTER_OTLP_{name}"
    )


def _tell_missing(signal: Signal, error: ImportError) -> None:
    _log.warning(
        f"no {_WHAT[signal]} are exported, though OTEL_EXPORTER_OTLP_ENDPOINT asks for it: the "
        "packages are missing; run: pip install '.[otel]'",
        missing=error.name,
    )


def _resource(settings: BridgeSettings) -> Resource:
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    ours = {"service.name": settings.app_name, "deployment.environment.name": settings.nats_env}
    return Resource.create(ours).merge(OTELResourceDetector().detect())


def _export_spans(settings: BridgeSettings) -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # At exit it would wait half a minute for a collector that is away; `flush_spans` does not.
    provider = TracerProvider(resource=_resource(settings), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def _metrics(settings: BridgeSettings, refresh: Callable[[], Awaitable[object]]) -> OtlpMetrics:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    from jetstream_bridge.service.otlp_metrics import OtlpMetrics

    return OtlpMetrics(OTLPMetricExporter(), _resource(settings), refresh, every=_interval() / 1000)


def _interval() -> float:
    """Milliseconds between two exports; a value that is none is told, and the default counts."""
    given = os.environ.get("OTEL_METRIC_EXPORT_INTERVAL") or str(_EVERY)
    if given.strip().isdecimal() and int(given) > 0:
        return int(given)
    _log.warning(
        f"OTEL_METRIC_EXPORT_INTERVAL is {given!r}, and no number of milliseconds; it is {_EVERY}"
    )
    return _EVERY


async def flush_spans() -> None:
    """Send what was recorded, within a time limit: a process that a signal ends runs no exit hook.

    The SDK's own limit for this is not kept, so a daemon thread waits for the collector.
    """
    flush = getattr(trace.get_tracer_provider(), "force_flush", None)
    if flush is None:
        return
    try:
        await in_daemon_thread(flush, name="flush spans", within=FLUSH_WITHIN)
    except TimeoutError:
        _log.warning("the last spans were not sent: the collector does not answer")
    except Exception as error:  # an SDK's, or a vendor's in its place
        _log.warning("the last spans were not sent", error=repr(error))
