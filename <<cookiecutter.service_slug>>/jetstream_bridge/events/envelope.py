"""The envelope of an event that leaves: what it looks like on the wire.

Building is strict, so that nothing leaves that a peer would choke on.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from opentelemetry import trace
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python
from uuid_utils import uuid7

from jetstream_bridge.core.errors import InvalidEventError
from jetstream_bridge.events.json_documents import DEEPEST, is_deeper
from jetstream_bridge.events.received_envelope import parse_timestamp
from jetstream_bridge.events.wire_rules import CONTROL, MAX_ID, event_id_flaw

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # the escape, not a backslash before "u0000"

Payload = Mapping[str, Any] | BaseModel
_to_json = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=to_jsonable_python
).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """An event that is about to leave, complete and checked. Field order is the wire's.

    `extra` are fields that only other readers know; they follow the others.
    """

    event_id: str
    schema_version: int
    event_type: str
    producer: str
    resource_id: str
    occurred_at: str
    trace_id: str
    resource_type: str
    payload: dict[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the message body: compact JSON, keys in the wire's order."""
        fields = {
            "event_id": self.event_id,
            "schema_version": self.schema_version,
            "event_type": self.event_type,
            "producer": self.producer,
            "resource_id": self.resource_id,
            "occurred_at": self.occurred_at,
            "trace_id": self.trace_id,
            "resource_type": self.resource_type,
            "payload": self.payload,
            **self.extra,
        }
        try:
            body = _to_json(fields)
            body.encode()
        except (ValueError, TypeError, RecursionError, PydanticSerializationError) as error:
            raise InvalidEventError(
                f"the payload of {self.event_type!r} cannot be written as JSON ({error}); "
                "use text, finite numbers, booleans, null, lists and mappings"
            ) from error
        if _NUL.search(body):
            raise InvalidEventError(
                f"the payload of {self.event_type!r} has a NUL character, which no database "
                "column can hold as text; remove it"
            )
        if body.count("{") + body.count("[") > DEEPEST and is_deeper(fields, DEEPEST):
            raise InvalidEventError(
                f"the payload of {self.event_type!r} is nested too deeply: an envelope may have "
                f"{DEEPEST} levels, or its receivers cannot read it"
            )
        return body


def build(
    event_type: str,
    payload: Payload,
    *,
    producer: str,
    resource_type: str | None = None,
    resource_id: str | int | UUID | None = None,
    event_id: str | UUID | None = None,
    trace_id: str | None = None,
    occurred_at: datetime | str | None = None,
    schema_version: int = 1,
    extra: Mapping[str, Any] | None = None,
) -> Envelope:
    """Return a complete envelope; raise `InvalidEventError` naming what cannot stand in one.

    A dotted type like `customer.created` tells the resource type. Without `resource_id` the
    payload's `id`, or else its `resource_id`, is taken.
    """
    _identifier("event_type", event_type)
    fields = _payload_fields(event_type, payload)
    return Envelope(
        event_id=str(uuid7()) if event_id is None else _event_id(event_id),
        schema_version=_schema_version(schema_version),
        event_type=event_type,
        producer=_identifier("producer", producer),
        resource_id=_resource_id(fields, resource_id),
        occurred_at=_timestamp(occurred_at),
        trace_id=_current_trace_id() if trace_id is None else _identifier("trace_id", trace_id),
        resource_type=_resource_type(event_type, resource_type),
        payload=fields,
        extra=extra or {},
    )


def _payload_fields(event_type: str, payload: Payload) -> dict[str, Any]:
    if isinstance(payload, BaseModel):
        return payload.model_dump(mode="json")
    if isinstance(payload, Mapping):
        return dict(payload)
    raise InvalidEventError(
        f"the payload of {event_type!r} is of type {type(payload).__name__}; "
        "give a mapping or a Pydantic model"
    )


def _identifier(name: str, value: object) -> str:
    """Ids travel in headers and in keys: no line break may open a header of its own."""
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_ID:
        raise InvalidEventError(f"{name} {value!r} is not a text of 1 to {MAX_ID} characters")
    if CONTROL.search(value):
        raise InvalidEventError(f"{name} {value!r} has a control character; remove it")
    if _SURROGATE.search(value):
        raise InvalidEventError(f"{name} {value!r} has half of a surrogate pair; remove it")
    return value


def _event_id(value: object) -> str:
    """The id is also a header's value, which is ASCII and loses blanks at its ends."""
    text = _identifier("event_id", str(value) if isinstance(value, UUID) else value)
    if (flaw := event_id_flaw(text)) is not None:
        raise InvalidEventError(flaw)
    return text


def _schema_version(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidEventError(f"schema_version {value!r} is not a whole number from 1")
    return value


def _resource_type(event_type: str, given: str | None) -> str:
    if given is not None:
        return _identifier("resource_type", given)
    first, dot, _ = event_type.partition(".")
    return first if dot and first else "event"


def _resource_id(payload: Mapping[str, Any], given: str | int | UUID | None) -> str:
    value: object = given
    if value is None:
        value = payload.get("id")
    if value is None:
        value = payload.get("resource_id")
    if value is None or value == "":
        return ""
    return _identifier("resource_id", id_text(value))


def id_text(value: object) -> str:
    """Return an id as other programs read it in the event's JSON: `true`, and not `True`."""
    try:
        plain = to_jsonable_python(value, fallback=str)
        if isinstance(plain, str):
            return plain
        return json.dumps(plain, allow_nan=False, separators=(",", ":"))
    except (ValueError, PydanticSerializationError) as error:
        raise InvalidEventError(
            f"resource_id {value!r} cannot be written as JSON; give a text, a number or a UUID"
        ) from error


def _timestamp(value: datetime | str | None) -> str:
    if value is None:
        moment = datetime.now(UTC)
    elif isinstance(value, datetime):
        moment = value
    else:
        parsed = parse_timestamp(value)
        if parsed is None:
            raise InvalidEventError(
                f"occurred_at {value!r} is not a time; write it like 2026-01-02T03:04:05Z"
            )
        moment = parsed
    if moment.utcoffset() is None:
        raise InvalidEventError(f"occurred_at {value!r} has no time zone; give one, e.g. UTC")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _current_trace_id() -> str:
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else secrets.token_hex(8)
