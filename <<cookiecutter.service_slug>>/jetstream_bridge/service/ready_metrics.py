"""Readiness and identity of this process, for Prometheus.

`bridge_ready` is what `/readyz` says, for each check: an API serves while one of NATS fails. A
scrape asks the database nothing that a probe has asked in the last five seconds, and the bridge's
own checks ask nobody.
"""

from __future__ import annotations

from functools import cache

from prometheus_client import REGISTRY, CollectorRegistry, Gauge

from jetstream_bridge.service.health import Health
from jetstream_bridge.service.settings import BridgeSettings

EVERY = 5.0  # seconds between two looks at the database


@cache
def _ready(registry: CollectorRegistry) -> Gauge:
    return Gauge(
        "bridge_ready",
        "1 while this check of /readyz passes, else 0",
        ("check",),
        registry=registry,
    )


@cache
def _info(registry: CollectorRegistry) -> Gauge:
    return Gauge(
        "bridge_info",
        "Always 1; its labels say whose process this is",
        ("app", "env"),
        registry=registry,
    )


class ReadyMetrics:
    """Keeps these gauges of one process true."""

    def __init__(
        self, health: Health, settings: BridgeSettings, *, registry: CollectorRegistry = REGISTRY
    ) -> None:
        self._health = health
        self._gauge = _ready(registry)
        info = _info(registry)
        info.clear()
        info.labels(settings.app_name, settings.nats_env).set(1)

    async def refresh(self) -> None:
        """Make the gauges true, as of five seconds ago or later; return within two seconds."""
        checks = await self._health.checks(max_age=EVERY)
        self._gauge.clear()  # of another process' checks, where tests share a registry
        for name, check in checks.items():
            self._gauge.labels(name).set(check.ok)
