"""The envelope: what an event looks like on the wire, built and read.

Building is strict, so that nothing leaves that a peer would choke on. Reading is lenient, so
that nothing a peer sends is lost over a field that nobody needs: only a body that is no JSON
object, or has no event type or no payload, is refused.
"""

from __future__ import annotations

import json
import math
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

from jetstream_bridge.core.errors import EnvelopeError, InvalidEventError, MalformedJSONError
from jetstream_bridge.events.json_documents import DEEPEST, REPLACED, is_deeper, read_json
from jetstream_bridge.events.wire_rules import MAX_ID, event_id_flaw

ID_HEADER = "Nats-Msg-Id"
GEM_ID_HEADER = "nats-msg-id"  # what jetstream_bridge peers write; the server ignores it
# A replayed event has an id of its own in the stream, and says here which event it is: the JSON
# text of its key, since a header's value is ASCII.
REPLAY_ID = "replay:"
REPLAY_KEY_HEADER = "x-replay-key"
_PLACE = "seq:"  # how the key of an event without an id begins

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # the escape, not a backslash before "u0000"

Payload = Mapping[str, Any] | BaseModel


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
            body = json.dumps(
                fields,
                ensure_ascii=False,
                allow_nan=False,
                separators=(",", ":"),
                default=to_jsonable_python,
            )
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
    if _CONTROL.search(value):
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


def parse_timestamp(value: object) -> datetime | None:
    """Return an RFC 3339 time in UTC, or None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    if moment.utcoffset() is None:
        return None
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return None


def _current_trace_id() -> str:
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else secrets.token_hex(8)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedEnvelope:
    """An envelope as it came: what is missing has a neutral value, `raw` keeps all of it."""

    event_id: str | None
    schema_version: int
    event_type: str
    producer: str
    resource_id: str
    occurred_at: datetime | None
    trace_id: str
    resource_type: str
    payload: Any  # usually an object; the handler's model decides whether it fits
    raw: dict[str, Any]
    # The JSON text that `payload` stands in; None once the payload is not the sender's any more.
    body: bytes | None = field(default=None, repr=False, compare=False)

    @property
    def type(self) -> str:
        """The dotted spelling, `customer.created`, however the sender split it."""
        if "." in self.event_type or not self.resource_type:
            return self.event_type
        return f"{self.resource_type}.{self.event_type}"


def parse(body: bytes) -> ReceivedEnvelope:
    """Read a message body; raise `MalformedJSONError` or `EnvelopeError`."""
    raw, text = _parse_object(body)
    event_type = raw.get("event_type")
    if not isinstance(event_type, str) or not event_type:
        shown = f"{event_type!r:.100}" if "event_type" in raw else "missing"
        raise EnvelopeError(f"event_type is {shown}; an envelope needs a text there")
    if "payload" not in raw:
        raise EnvelopeError("payload is missing; an envelope needs one")
    version = raw.get("schema_version")
    return ReceivedEnvelope(
        event_id=_text(raw.get("event_id")) or None,
        schema_version=version if isinstance(version, int) and version is not True else 1,
        event_type=event_type,
        producer=_text(raw.get("producer")),
        resource_id=_text(raw.get("resource_id")),
        occurred_at=parse_timestamp(raw.get("occurred_at")),
        trace_id=_text(raw.get("trace_id")),
        resource_type=_text(raw.get("resource_type")),
        payload=raw["payload"],
        raw=raw,
        body=text,
    )


def _parse_object(body: bytes) -> tuple[dict[str, Any], bytes]:
    value, text = read_json(body)
    if not isinstance(value, dict):
        raise EnvelopeError(f"the body is a JSON {_json_type(value)}; an envelope is an object")
    return value, text


def _json_type(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return str(value) if isinstance(value, int | float) else ""


def is_usable_id(value: str | None) -> bool:
    """Whether a received id can serve as a key: non-blank, bounded, of plain characters.

    U+FFFD stands for what could not be read, so two ids that have one may be two others.
    """
    return (
        value is not None
        and len(value) <= MAX_ID
        and bool(value.strip())
        and _CONTROL.search(value) is None
        and REPLACED not in value
    )


def message_key(headers: Mapping[str, str], envelope: ReceivedEnvelope | None, place: str) -> str:
    """Return the receiver's key of a message: id header, envelope's `event_id`, `seq:{place}`.

    `place` is that of the metadata: sequence and moment, so that a stream that was made anew is
    another one.

    A replayed event has the key of the original, so that the inbox knows it.

    Header names are read in any case: peers that run the gem write theirs in lower case.
    """
    for name, value in headers.items():
        if name.lower() == GEM_ID_HEADER and _is_given(value):
            return value if not value.startswith(REPLAY_ID) else replayed_key(headers, value)
    if envelope is not None and envelope.event_id is not None and _is_given(envelope.event_id):
        return envelope.event_id
    return f"{_PLACE}{place}"


def _is_given(event_id: str) -> bool:
    """Whether a sender's id is one; what looks like a place would be that of another event."""
    return is_usable_id(event_id) and not event_id.startswith(_PLACE)


def replayed_key(headers: Mapping[str, str], fallback: str) -> str:
    """Return the key of the event that a replay brings again."""
    try:
        key, _ = read_json(headers.get(REPLAY_KEY_HEADER, "").encode())
    except MalformedJSONError:
        return fallback
    return key if isinstance(key, str) and is_usable_id(key) else fallback
