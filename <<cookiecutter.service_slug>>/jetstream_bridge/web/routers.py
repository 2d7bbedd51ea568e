"""The routers that a service mounts: the operator's API, probes, metrics, the events' document."""

from __future__ import annotations

from fastapi import APIRouter

from jetstream_bridge.web import health, metrics
from jetstream_bridge.web.admin import router as operators_api
from jetstream_bridge.web.asyncapi import router as asyncapi_document

__all__ = ["asyncapi_document", "operators_api", "probes"]

probes = APIRouter()
probes.include_router(health.router)
probes.include_router(metrics.router)
