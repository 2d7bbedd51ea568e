"""The routers that a service mounts: the operator's API, and what probes and Prometheus ask."""

from __future__ import annotations

from fastapi import APIRouter

from jetstream_bridge.web import health, metrics
from jetstream_bridge.web.admin import router as operators_api

__all__ = ["operators_api", "probes"]

probes = APIRouter()
probes.include_router(health.router)
probes.include_router(metrics.router)
