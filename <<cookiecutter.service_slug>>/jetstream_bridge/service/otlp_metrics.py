"""What `/metrics` shows, sent to an OpenTelemetry collector as well.

There is one place where something is measured: Prometheus' registry of this process, with the
service's own metrics in it. Once in a while it is read as a scrape reads it, and sent over OTLP
with the same names, less the `_total` that Prometheus adds to a counter.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.logger import get_logger
from jetstream_bridge.core.tasks import Tasks, happens
from jetstream_bridge.service.daemon_thread import in_daemon_thread

EXPORT_WITHIN = 10.0  # seconds for one export
_SCOPE = InstrumentationScope("jetstream_bridge")
_CUMULATIVE = AggregationTemporality.CUMULATIVE
_SECONDS = "_seconds"
_TASK = "export of metrics"
Labels = tuple[tuple[str, str], ...]

_log = get_logger(__name__)


class OtlpMetrics:
    """Sends this process' metrics every so many seconds."""

    def __init__(
        self,
        exporter: MetricExporter,
        resource: Resource,
        refresh: Callable[[], Awaitable[object]],
        *,
        every: float,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        """`refresh` brings the gauges up to date, as a scrape does. `every`: seconds."""
        self._exporter = exporter
        self._resource = resource
        self._refresh = refresh
        self._every = every
        self._registry = registry
        self._began = time.time_ns()
        self._fails = False
        self._closing = asyncio.Event()
        self._tasks = Tasks()

    def start(self) -> None:
        self._tasks.start(_TASK, self.run)

    async def close(self, *, within: float) -> None:
        """Send what there is at the end, within so many seconds.

        An export in progress comes first: its thread cannot be cancelled, and older numbers would
        arrive after the last ones.
        """
        deadline = loop_time() + within
        self._closing.set()
        await self._tasks.finish(_TASK, within)
        await self.send(within=max(0.0, deadline - loop_time()))

    async def run(self) -> None:
        """Send until closed. A collector that is away is told once, and costs nothing else."""
        while not await happens(self._closing, self._every):
            await self._refresh()
            await self.send(within=EXPORT_WITHIN)

    async def send(self, *, within: float) -> None:
        """Send what the registry has now; give up after `within` seconds."""
        data = metrics_data(self._registry, self._resource, began=self._began)
        try:
            result = await in_daemon_thread(
                lambda: self._exporter.export(data, timeout_millis=1000 * within),
                name="export metrics",
                within=within,
            )
        except TimeoutError:
            self._tell("the collector does not answer")
        except Exception as error:  # an exporter's own fault is no fault of the service
            self._tell(repr(error))
        else:
            refused = result is not MetricExportResult.SUCCESS
            self._tell("the collector took none" if refused else None)

    def _tell(self, problem: str | None) -> None:
        if problem is not None and not self._fails:
            _log.warning(f"metrics are not exported: {problem}")
        elif problem is None and self._fails:
            _log.info("metrics are exported again")
        self._fails = problem is not None


def metrics_data(registry: CollectorRegistry, resource: Resource, *, began: int) -> MetricsData:
    """Return what `registry` has, as OTLP has it. `began`: nanoseconds since 1970, for sums."""
    now = time.time_ns()
    metrics = [
        metric
        for family in registry.collect()
        if (metric := _metric(family, began, now)) is not None
    ]
    scope = ScopeMetrics(scope=_SCOPE, metrics=metrics, schema_url="")
    return MetricsData([ResourceMetrics(resource=resource, scope_metrics=[scope], schema_url="")])


def _metric(family: Family, began: int, now: int) -> Metric | None:
    data: Sum | Gauge | Histogram
    if family.type == "counter":
        total = [one for one in family.samples if one.name.endswith("_total")]
        data = Sum(list(_numbers(total, began, now)), _CUMULATIVE, is_monotonic=True)
    elif family.type == "histogram":
        data = Histogram(list(_histograms(family, began, now)), _CUMULATIVE)
    else:
        data = Gauge(list(_numbers(family.samples, began, now)))
    if not data.data_points:
        return None
    unit = "s" if family.name.endswith(_SECONDS) else ""
    return Metric(name=family.name, description=family.documentation, unit=unit, data=data)


def _numbers(samples: Iterable[Sample], began: int, now: int) -> Iterator[NumberDataPoint]:
    """What could not be read is NaN in Prometheus, and left out here."""
    for sample in samples:
        if not math.isnan(sample.value):
            yield NumberDataPoint(_attributes(sample.labels), began, now, sample.value)


def _attributes(labels: Mapping[str, str]) -> dict[str, Any]:
    return {name: value for name, value in labels.items() if name != "le"}


def _histograms(family: Family, began: int, now: int) -> Iterator[HistogramDataPoint]:
    """Prometheus counts up to each bound, OTLP between two of them; the last bound is infinite."""
    up_to: dict[Labels, dict[float, int]] = {}
    sums: dict[Labels, float] = {}
    for sample in family.samples:
        key = tuple(sorted(_attributes(sample.labels).items()))
        if sample.name.endswith("_bucket"):
            up_to.setdefault(key, {})[float(sample.labels["le"])] = int(sample.value)
        elif sample.name.endswith("_sum"):
            sums[key] = sample.value
    for labels, counts in up_to.items():
        *bounds, _ = sorted(counts)
        reached = [counts[bound] for bound in (*bounds, math.inf)]
        yield HistogramDataPoint(
            attributes=dict(labels),
            start_time_unix_nano=began,
            time_unix_nano=now,
            count=reached[-1],
            sum=sums[labels],
            bucket_counts=[last - first for first, last in pairwise([0, *reached])],
            explicit_bounds=bounds,
            min=math.nan,
            max=math.nan,
        )
