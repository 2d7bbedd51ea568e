"""The operator's API under `/admin`. Routes that are added here need the token too."""

from __future__ import annotations

from jetstream_bridge.web.admin import router

__all__ = ["router"]
