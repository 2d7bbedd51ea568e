"""Making events as another service would send them, and reading those that this one sent."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from jetstream_bridge.events.received_envelope import parse
from jetstream_bridge.testing.errors import NotSimulated
from jetstream_bridge.testing.wire import header_values


def make_event(
    type_: str,
    payload: Mapping[str, Any] | BaseModel | None = None,
    *,
    producer: str = "other",
    **fields: Any,
) -> dict[str, Any]:
    """An envelope; `fields` replace its parts, and a part that is None is left out."""
    content = payload.model_dump(mode="json") if isinstance(payload, BaseModel) else payload or {}
    envelope = {
        "event_id": str(uuid.uuid4()),
        "schema_version": 1,
        "event_type": type_,
        "producer": producer,
        "resource_id": str(content.get("id", "")),
        "occurred_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "trace_id": uuid.uuid4().hex[:16],
        "resource_type": type_.partition(".")[0],
        "payload": dict(content),
        **fields,
    }
    return {name: value for name, value in envelope.items() if value is not None}


@dataclass(frozen=True, slots=True)
class SentEvent:
    """An event that the stream stored."""

    type: str
    payload: Any
    event_id: str | None
    resource_type: str
    resource_id: str
    producer: str
    trace_id: str
    schema_version: int
    subject: str
    headers: dict[str, str]
    body: bytes

    def __str__(self) -> str:
        return f"{self.type} {json.dumps(self.payload, ensure_ascii=False)} on {self.subject}"


def read_event(subject: str, headers: bytes, body: bytes) -> SentEvent:
    """Read a stored message as a receiver would; raise if it is no event."""
    envelope = parse(body)
    return SentEvent(
        type=envelope.type,
        payload=envelope.payload,
        event_id=envelope.event_id,
        resource_type=envelope.resource_type,
        resource_id=envelope.resource_id,
        producer=envelope.producer,
        trace_id=envelope.trace_id,
        schema_version=envelope.schema_version,
        subject=subject,
        headers=header_values(headers),
        body=body,
    )


def body_of(event: Mapping[str, Any] | bytes | str) -> bytes:
    """What goes on the wire: an envelope as JSON, or what a test wants there."""
    if isinstance(event, bytes):
        return event
    if isinstance(event, str):
        return event.encode()
    if not isinstance(event, Mapping):
        raise NotSimulated(f"an event of type {type(event).__name__}")
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
