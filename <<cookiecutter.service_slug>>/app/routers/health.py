"""`/healthz`, `/readyz`, `/health/jetstream` and `/metrics`."""

from __future__ import annotations

from fastapi import APIRouter

from jetstream_bridge.web import health, metrics

router = APIRouter()
router.include_router(health.router)
router.include_router(metrics.router)
