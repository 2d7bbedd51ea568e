"""`/asyncapi.json`, for whoever reaches the API; without this file, the console alone has it."""

from __future__ import annotations

from jetstream_bridge.web import asyncapi_document as router

__all__ = ["router"]
