"""What others wrote, made fit to be answered with: an event's JSON, and bodies that are none.

A stranger's JSON may be nested too deeply to be written again, or hold half of a surrogate pair
or a number beyond all bounds. Such a document is shown as the text that it is.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

_DEEPEST = 100  # levels


class Body(BaseModel):
    """Bytes as text where they are UTF-8, else in base64."""

    encoding: Literal["utf-8", "base64"]
    data: str


class TryView(BaseModel):
    """One try that failed."""

    model_config = ConfigDict(from_attributes=True)

    at: str
    error: str
    delivery: int | None


def tries_of(tries: Iterable[object]) -> list[TryView]:
    return [TryView.model_validate(one) for one in tries]


def body_of(content: bytes) -> Body:
    try:
        return Body(encoding="utf-8", data=content.decode())
    except UnicodeDecodeError:
        return Body(encoding="base64", data=base64.b64encode(content).decode())


def event_of(content: bytes | str | None) -> dict[str, Any] | None:
    """Return a JSON object that can be answered with, None for everything else."""
    if content is None:
        return None
    try:
        event = json.loads(content)
        if not isinstance(event, dict) or _depth_exceeds(event, _DEEPEST):
            return None
        json.dumps(event, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return None
    return event


def _depth_exceeds(value: object, levels: int) -> bool:
    here: list[object] = [value]
    for _ in range(levels):
        here = [inner for outer in here for inner in _inside(outer)]
        if not here:
            return False
    return True


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
