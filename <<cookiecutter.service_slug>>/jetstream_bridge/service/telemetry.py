"""Whether spans are exported: only where the environment says where to.

`OTEL_EXPORTER_OTLP_ENDPOINT`, with the packages of the extra `otel`, is all that it takes; the
other `OTEL_*` variables count as the SDK documents them. Without it the SDK is not even imported.
A tracer provider that is there already, `opentelemetry-instrument`'s for instance, is left alone.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, MutableMapping
from concurrent.futures import Future
from threading import Thread
from typing import Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace

from jetstream_bridge.core.logger import get_logger
from jetstream_bridge.nats.tracing import recording
from jetstream_bridge.service.settings import BridgeSettings

_FLUSH_WITHIN = 3.0  # seconds, of the time that stopping may take
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})

_log = get_logger(__name__)


def _is_probe(scope: MutableMapping[str, Any]) -> bool:
    return scope.get("path") in _PROBES


# FastAPI would set up exporters of its own: here the worker needs the same, which serves probes.
FASTAPI: TelemetryConfig = {"auto_configure": False, "exclude": _is_probe}


def configure_tracing(settings: BridgeSettings) -> None:
    """Export spans where the environment asks for it; a fault is logged and stops nothing."""
    if not _wanted() or recording():
        return
    protocol = _otlp("PROTOCOL") or "http/protobuf"
    if protocol != "http/protobuf":
        _log.warning(
            f"no spans are exported: OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}; write "
            "http/protobuf, and the collector's port for it, usually 4318"
        )
        return
    try:
        _export(settings)
    except ImportError as error:
        _log.warning(
            "no spans are exported, though OTEL_EXPORTER_OTLP_ENDPOINT asks for it: the packages "
            "are missing; run: pip install '.[otel]'",
            missing=error.name,
        )


def _wanted() -> bool:
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    exporter = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    return bool(_otlp("ENDPOINT")) and not disabled and exporter != "none"


def _otlp(name: str) -> str | None:
    """The variable for traces comes before the one for all signals."""
    return os.environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or os.environ.get(
        f"OTEL_EXPORTER_OTLP_{name}"
    )


def _export(settings: BridgeSettings) -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    ours = {"service.name": settings.app_name, "deployment.environment.name": settings.nats_env}
    resource = Resource.create(ours).merge(OTELResourceDetector().detect())
    # At exit it would wait half a minute for a collector that is away; `flush_spans` does not.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


async def flush_spans() -> None:
    """Send what was recorded, within a time limit: a process that a signal ends runs no exit hook.

    The SDK's own limit for this is not kept, so a daemon thread waits for the collector.
    """
    flush = getattr(trace.get_tracer_provider(), "force_flush", None)
    if flush is None:
        return
    flushed: Future[object] = Future()
    Thread(target=_run, args=(flush, flushed), name="flush spans", daemon=True).start()
    _, late = await asyncio.wait([asyncio.wrap_future(flushed)], timeout=_FLUSH_WITHIN)
    if late:
        _log.warning("the last spans were not sent: the collector does not answer")
    elif (error := flushed.exception()) is not None:
        _log.warning("the last spans were not sent", error=repr(error))


def _run(function: Callable[[], object], result: Future[object]) -> None:
    try:
        result.set_result(function())
    except Exception as error:  # an SDK's, or a vendor's in its place
        result.set_exception(error)
