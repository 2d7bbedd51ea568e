"""Requests to the mock's JetStream API as they came, and long answers in pages."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from jetstream_bridge.testing.errors import (
    ApiFault,
)
from jetstream_bridge.testing.stream_config import Json

if TYPE_CHECKING:
    pass


def read_request(payload: bytes) -> Json:
    if not payload.strip():
        return {}
    try:
        request: Any = json.loads(payload)
    except ValueError as error:
        raise ApiFault(400, 10025, f"invalid JSON: {error}") from error
    if not isinstance(request, dict):
        raise ApiFault(400, 10025, "invalid JSON: not an object")
    return request


def page_of(found: Iterable[Any], request: Json, name: str, limit: int) -> Json:
    everything = list(found)
    offset = min(request.get("offset", 0), len(everything))
    page = everything[offset : offset + limit]
    return {"total": len(everything), "offset": offset, "limit": limit, name: page}
