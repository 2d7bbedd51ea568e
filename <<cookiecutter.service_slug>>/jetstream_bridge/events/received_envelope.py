"""The envelope as it came. Reading is lenient: nothing is lost over a field that nobody needs.

Only a body that is no JSON object, or has no event type or no payload, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from jetstream_bridge.core.errors import EnvelopeError, MalformedJSONError
from jetstream_bridge.events.json_documents import REPLACED, read_json
from jetstream_bridge.events.wire_rules import (
    CONTROL,
    GEM_ID_HEADER,
    MAX_ID,
    REPLAY_ID,
    REPLAY_KEY_HEADER,
)

_PLACE = "seq:"  # how the key of an event without an id begins


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


@dataclass(slots=True, kw_only=True)  # freezing costs half of making one for each message
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
    # The dotted spelling, `customer.created`, however the sender split it.
    type: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        dotted = "." in self.event_type or not self.resource_type
        self.type = self.event_type if dotted else f"{self.resource_type}.{self.event_type}"


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
    if value is None or len(value) > MAX_ID:
        return False
    if value.isascii() and value.isprintable():  # as nearly all of them
        return bool(value) and not value.isspace()
    return bool(value.strip()) and CONTROL.search(value) is None and REPLACED not in value


def message_key(headers: Mapping[str, str], envelope: ReceivedEnvelope | None, place: str) -> str:
    """Return the receiver's key of a message: id header, envelope's `event_id`, `seq:{place}`.

    `place` is that of the metadata: sequence and moment, so that a stream that was made anew is
    another one.

    A replayed event has the key of the original, so that the inbox knows it.

    Header names are read in any case: peers that run the gem write theirs in lower case.
    """
    return given_key(headers, envelope) or f"{_PLACE}{place}"


def given_key(headers: Mapping[str, str], envelope: ReceivedEnvelope | None) -> str | None:
    """Return the key that the sender gave a message, None without one."""
    for name, value in headers.items():
        if name.lower() == GEM_ID_HEADER and _is_given(value):
            return value if not value.startswith(REPLAY_ID) else replayed_key(headers, value)
    if envelope is not None and envelope.event_id is not None and _is_given(envelope.event_id):
        return envelope.event_id
    return None


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
