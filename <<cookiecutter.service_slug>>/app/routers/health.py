"""`/healthz`, `/readyz`, `/health/jetstream` and `/metrics`."""

from __future__ import annotations

from jetstream_bridge.web import probes as router

__all__ = ["router"]
