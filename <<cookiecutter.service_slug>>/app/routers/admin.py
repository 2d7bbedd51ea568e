"""The operator's API under `/admin`. Own routes there: `admin_router` of `jetstream_bridge.web`."""

from __future__ import annotations

from jetstream_bridge.web import operators_api as router

__all__ = ["router"]
