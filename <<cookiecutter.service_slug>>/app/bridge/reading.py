"""What a message is to its worker, found out once, when it arrives.

Reading does not fail: what cannot be handled has a verdict, and goes to the dead letters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from nats.aio.msg import Msg

from .config import FutureSchema
from .envelope import ID_HEADER, ReceivedEnvelope, message_key, parse
from .errors import (
    EnvelopeError,
    FutureSchemaError,
    MalformedJSONError,
    PayloadError,
    UpcastError,
)
from .event import Metadata
from .handlers import Handler
from .letter import read_letter
from .registry import Consumers

_LETTER_ID = "dlq:"
_NO_ENVELOPE = ReceivedEnvelope(
    event_id=None,
    schema_version=1,
    event_type="unknown",
    producer="",
    resource_id="",
    occurred_at=None,
    trace_id="",
    resource_type="",
    payload=None,
    raw={},
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a message goes to the dead letters; `reason` is one of the wire's."""

    reason: str
    error: Exception


@dataclass(slots=True)
class Reading:
    """One message as read. Without an envelope there is a verdict; without a handler, neither."""

    key: str
    resource: str  # events of one resource keep their order
    envelope: ReceivedEnvelope | None = None
    handler: Handler | None = None
    payload: Any = None
    verdict: Verdict | None = None


class Reader(Protocol):
    """Reads the messages of one durable."""

    def read(self, msg: Msg, headers: Mapping[str, str], metadata: Metadata) -> Reading: ...


class EventReader:
    """Reads the events of one source."""

    def __init__(
        self, consumers: Consumers, source: str | None, *, future: FutureSchema = "handle"
    ) -> None:
        self._consumers = consumers
        self._source = source
        self._steps = consumers.steps(source)
        self._future = future

    def read(self, msg: Msg, headers: Mapping[str, str], metadata: Metadata) -> Reading:
        try:
            envelope = parse(msg.data)
        except EnvelopeError as error:
            reason = (
                "malformed_json" if isinstance(error, MalformedJSONError) else "invalid_envelope"
            )
            seq = metadata.sequence
            return Reading(
                message_key(headers, None, seq), f"seq:{seq}", verdict=Verdict(reason, error)
            )
        seq = metadata.sequence
        resource_id = envelope.resource_id
        resource = f"{envelope.resource_type}:{resource_id}" if resource_id else f"seq:{seq}"
        handler = self._consumers.find(envelope, self._source)
        reading = Reading(message_key(headers, envelope, seq), resource, envelope, handler)
        if handler is not None:
            self._read_payload(reading, handler, envelope)
        return reading

    def _read_payload(self, reading: Reading, handler: Handler, envelope: ReceivedEnvelope) -> None:
        try:
            if self._steps or handler.options.schema_version is not None:
                reading.envelope = envelope = self._of_today(handler, envelope)
            reading.payload = handler.payload(envelope)
        except PayloadError as error:
            reading.verdict = Verdict("invalid_payload", error)
        except (UpcastError, FutureSchemaError) as error:
            reading.verdict = Verdict("unrecoverable", error)

    def _of_today(self, handler: Handler, envelope: ReceivedEnvelope) -> ReceivedEnvelope:
        steps = self._steps.get(envelope.type) or self._steps.get(envelope.event_type)
        known = steps.target if steps is not None else handler.options.schema_version
        if known is not None and envelope.schema_version > known:
            if self._future == "handle":
                return envelope
            raise FutureSchemaError(
                f"{envelope.type!r} has schema version {envelope.schema_version}, and "
                f"{handler.name} reads up to {known}; deploy one that reads it, then replay"
            )
        return steps.apply(envelope) if steps is not None else envelope


class LetterReader:
    """Reads this service's dead letters, each independent of all others."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def read(self, msg: Msg, headers: Mapping[str, str], metadata: Metadata) -> Reading:
        letter, envelope = read_letter(msg.data, headers, metadata)
        # Only our own ids tell letters apart: a gem's letter has the id of its original, which
        # may be dead-lettered more than once.
        own = headers.get(ID_HEADER, "")
        seq = metadata.sequence
        key = own if own.startswith(_LETTER_ID) else f"seq:{seq}"
        return Reading(key, f"seq:{seq}", envelope or _NO_ENVELOPE, self._handler, letter)
