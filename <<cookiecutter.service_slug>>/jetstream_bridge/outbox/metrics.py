"""What is counted of publishing, once for each claim of the relay and not for each event.

A histogram of prometheus_client takes a lock and a search for each value; a relay has ten
thousand of them in a second. So the values of a claim are sorted, and each bucket's bound is looked
up among them.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice

from prometheus_client import REGISTRY, CollectorRegistry, Counter
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from jetstream_bridge.outbox.chains import Chain
from jetstream_bridge.outbox.settlement import Settlement

_PUBLISH_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
DELIVERY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

# What became of an event. `refused` comes again, `failed` does not. `unavailable` is an outage,
# which counts once for each of the relay's claims that it ended, and without the outbox once for
# each event that was given up.
RESULTS = ("published", "duplicate", "refused", "failed", "unavailable")


class BatchHistogram(Collector):
    """A histogram that takes many values at once. Used from one thread, that of the loop."""

    def __init__(self, name: str, documentation: str, buckets: Sequence[float]) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = tuple(buckets)
        self._reached = [0] * len(buckets)  # values up to each bound
        self._count = 0
        self._sum = 0.0

    def observe(self, values: Iterable[float]) -> None:
        """Add `values`, in seconds; a negative one, of clocks that differ, counts as 0."""
        ordered = sorted(values)
        if not ordered:
            return
        for number, bound in enumerate(self._bounds):
            self._reached[number] += bisect_right(ordered, bound)
        self._count += len(ordered)
        negative = bisect_right(ordered, 0.0)
        self._sum += sum(ordered[negative:] if negative else ordered)

    def describe(self) -> Iterator[Metric]:
        yield HistogramMetricFamily(self._name, self._documentation)

    def collect(self) -> Iterator[Metric]:
        bounds = (str(float(bound)) for bound in self._bounds)
        buckets = [*zip(bounds, self._reached, strict=True), ("+Inf", self._count)]
        yield HistogramMetricFamily(
            self._name, self._documentation, buckets=buckets, sum_value=self._sum
        )


class PublishMetrics:
    """Counts what a relay did."""

    def __init__(self, registry: CollectorRegistry) -> None:
        published = Counter(
            "bridge_published_total",
            "Events that were sent, by what became of them",
            ("result",),
            registry=registry,
        )
        self._published = {result: published.labels(result) for result in RESULTS}
        self.publish_seconds = BatchHistogram(
            "bridge_publish_seconds",
            "From sending an event to the stream's acknowledgement",
            _PUBLISH_BUCKETS,
        )
        self.delivery_seconds = BatchHistogram(
            "bridge_delivery_seconds",
            "From writing an event into the outbox to the stream's acknowledgement",
            DELIVERY_BUCKETS,
        )
        registry.register(self.publish_seconds)
        registry.register(self.delivery_seconds)

    def count(self, result: str, number: int = 1) -> None:
        """Count `number` events whose fate was `result`, one of `RESULTS`."""
        if number:
            self._published[result].inc(number)


@cache
def publish_metrics(registry: CollectorRegistry = REGISTRY) -> PublishMetrics:
    """Return the metrics of `registry`, which takes one set of these names."""
    return PublishMetrics(registry)


def measure_claim(metrics: PublishMetrics, chains: Sequence[Chain], settlement: Settlement) -> None:
    """Tell the metrics about a claim that is settled."""
    now = time.time()
    duplicates = 0
    took: list[float] = []
    ages: list[float] = []
    for chain in chains:
        for message, row in islice(chain, chain.stored):
            duplicates += message.duplicate
            took.append(message.took)
            if row.enqueued is not None:
                ages.append(now - row.enqueued)
    metrics.publish_seconds.observe(took)
    metrics.delivery_seconds.observe(ages)
    metrics.count("published", len(took) - duplicates)
    metrics.count("duplicate", duplicates)
    metrics.count("refused", len(settlement.retries))
    metrics.count("failed", len(settlement.failures))
