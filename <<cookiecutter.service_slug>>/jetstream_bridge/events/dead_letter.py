"""A dead letter as it is read: the reason beside the original, whatever can be made of it.

Reading never fails. Letters may come from other programs, and a letter that could not be read
would be the one thing here that nobody can look into.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from jetstream_bridge.core.errors import EnvelopeError, MalformedJSONError
from jetstream_bridge.events.event import Event, Metadata
from jetstream_bridge.events.json_documents import read_json
from jetstream_bridge.events.received_envelope import (
    ReceivedEnvelope,
    is_usable_id,
    parse,
    parse_timestamp,
)
from jetstream_bridge.events.wire_rules import GEM_ID_HEADER, REPLAY_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One event that was put aside, and why. A handler of dead letters asks for it by type."""

    reason: str  # malformed_json, invalid_envelope, invalid_payload, unrecoverable, ...
    error: str  # what the error said, cut to 2 KiB
    error_class: str
    raised_at: str  # the line of the service's own code, like app/consumers/orders.py:12 in place
    deliveries: int  # how often the original was delivered
    event_id: str  # the original's key; empty when the letter does not tell
    original_subject: str
    sequence: int | None  # of the original in the stream
    consumer: str  # the durable that gave it up
    died_at: datetime | None
    replayed_from: int | None  # sequence of the letter from whose replay this one came
    event: Event[Any] | None = field(repr=False)  # None: the body is no envelope
    body: bytes = field(repr=False)  # the original's, byte for byte
    metadata: Metadata  # of the letter itself

    @property
    def resource(self) -> str | None:
        """`{resource_type}:{resource_id}`, whose events keep their order."""
        if self.event is None:
            return None
        return f"{self.event.resource_type}:{self.event.resource_id}"

    @property
    def summary(self) -> str:
        """The error in one line: its class, what it said, and where."""
        return one_line(self.error_class, self.error, self.raised_at)


def one_line(error_class: str, error: str, raised_at: str) -> str:
    """Return the parts of an error, some of which may be unknown, as one line."""
    said = ": ".join(" ".join(text.split()) for text in (error_class, error) if text)
    return f"{said} ({raised_at})" if raised_at else said


def read_letter(
    body: bytes, headers: Mapping[str, str], metadata: Metadata
) -> tuple[DeadLetter, ReceivedEnvelope | None]:
    """Read a message of the dead-letter subject; also return its envelope if it is one."""
    told = {name.lower(): value for name, value in headers.items()}
    context = _context(told.get("x-dlq-context", ""))
    envelope = _envelope(body)
    event_id = _text(context, "event_id") or (envelope.event_id if envelope else None) or ""
    letter = DeadLetter(
        reason=told.get("x-dlq-reason") or _text(context, "reason") or "unknown",
        error=_text(context, "error_message"),
        error_class=_text(context, "error_class"),
        raised_at=_text(context, "raised_at"),
        deliveries=_number(told.get("x-deliveries")) or _number(context.get("deliveries")) or 0,
        event_id=event_id if is_usable_id(event_id) else "",
        original_subject=_text(context, "original_subject"),
        sequence=_sequence(context.get("sequence")),
        consumer=_text(context, "consumer"),
        died_at=parse_timestamp(context.get("published_at")),
        replayed_from=_replayed_from(context, metadata.stream),
        event=None,
        body=body,
        metadata=metadata,
    )
    if envelope is None:
        return letter, None
    return _with_event(letter, envelope), envelope


def _with_event(letter: DeadLetter, envelope: ReceivedEnvelope) -> DeadLetter:
    """The original as an event. Its own moment in the stream is not told: it has the letter's."""
    metadata = Metadata(
        subject=letter.original_subject,
        stream=letter.metadata.stream,
        sequence=letter.sequence or 0,
        consumer=letter.consumer,
        deliveries=letter.deliveries,
        timestamp=letter.metadata.timestamp,
        headers=letter.metadata.headers,
    )
    return replace(letter, event=event_of(envelope, metadata, envelope.payload, letter.event_id))


def event_of(envelope: ReceivedEnvelope, metadata: Metadata, payload: Any, key: str) -> Event[Any]:
    """Return what a handler gets; `key` is the id of an event that has none of its own."""
    return Event(
        event_id=envelope.event_id or key,
        type=envelope.type,
        event_type=envelope.event_type,
        resource_type=envelope.resource_type,
        resource_id=envelope.resource_id,
        producer=envelope.producer,
        trace_id=envelope.trace_id,
        schema_version=envelope.schema_version,
        occurred_at=envelope.occurred_at,
        payload=payload,
        metadata=metadata,
        raw=envelope.raw,
    )


def _envelope(body: bytes) -> ReceivedEnvelope | None:
    try:
        return parse(body)
    except EnvelopeError:
        return None


def _context(text: str) -> dict[str, Any]:
    try:
        value, _ = read_json(text.encode())
    except MalformedJSONError:
        return {}
    return value if isinstance(value, dict) else {}


def _text(context: Mapping[str, Any], name: str) -> str:
    value = context.get(name)
    return value if isinstance(value, str) else ""


def _number(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    return None


def _replayed_from(context: Mapping[str, Any], stream: str) -> int | None:
    """The id of a replayed event is made from the place of its letter; a new letter tells it."""
    told = context.get("headers")
    ids = told.items() if isinstance(told, Mapping) else ()
    begin = f"{REPLAY_ID}{stream}:"
    for name, value in ids:
        if name.lower() == GEM_ID_HEADER and isinstance(value, str) and value.startswith(begin):
            return _number(value[len(begin) :].partition(":")[0])
    return None


def _sequence(value: object) -> int | None:
    """The gem writes its client's two-part sequence as an object, or null."""
    if isinstance(value, Mapping):
        value = value.get("stream")
    return _number(value)
