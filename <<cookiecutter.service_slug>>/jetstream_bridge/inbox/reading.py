"""What a message is to its worker: which event, for whom, and what it says.

It is read in two steps. `read` is this package's own work, done where the message arrives, and
never raises: without the event's resource there is no order. `finish` runs the service's own code,
its up-casters and validators, under the care of the worker that runs its handlers. What cannot be
handled has a verdict, and goes to the dead letters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from nats.aio.msg import Msg

from jetstream_bridge.core.config import FutureSchema
from jetstream_bridge.core.error_report import class_of, raised_at
from jetstream_bridge.core.errors import (
    EnvelopeError,
    FutureSchemaError,
    HandlerError,
    MalformedJSONError,
    PayloadError,
    UpcastError,
)
from jetstream_bridge.events.dead_letter import read_letter
from jetstream_bridge.events.event import Metadata
from jetstream_bridge.events.received_envelope import (
    ReceivedEnvelope,
    given_key,
    is_usable_id,
    message_key,
    parse,
)
from jetstream_bridge.events.wire_rules import ID_HEADER
from jetstream_bridge.inbox.handlers import Handler
from jetstream_bridge.inbox.registry import Consumers

_LETTER_ID = "dlq:"
# What a validator raises for reasons of its own: the event is tried again, as after a handler.
_NOT_THE_EVENTS = (HandlerError, OSError, MemoryError)
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
class Rejection:
    """Why a message goes to the dead letters; `reason` is one of the wire's."""

    reason: str
    error: Exception


@dataclass(slots=True)
class ReadMessage:
    """One message as read. Without an envelope there is a verdict; without a handler, neither."""

    key: str
    resource: str  # events of one resource keep their order
    envelope: ReceivedEnvelope | None = None
    handler: Handler | None = None
    payload: Any = None
    verdict: Rejection | None = None


class Reader(Protocol):
    """Reads the messages of one durable."""

    def read(self, msg: Msg, headers: Mapping[str, str], metadata: Metadata) -> ReadMessage: ...

    def finish(self, reading: ReadMessage) -> None:
        """Read the payload for its handler, or find the verdict.

        May raise, as a handler may: `Retry`, `Unrecoverable`, what the system could not do.
        """


class EventReader:
    """Reads the events of one source."""

    def __init__(
        self, consumers: Consumers, source: str | None, *, future: FutureSchema = "handle"
    ) -> None:
        self._consumers = consumers
        self._source = source
        self._steps = consumers.steps(source)
        self._future = future

    def read(self, msg: Msg, headers: Mapping[str, str], metadata: Metadata) -> ReadMessage:
        try:
            envelope = parse(msg.data)
        except EnvelopeError as error:
            place = metadata.place
            malformed = isinstance(error, MalformedJSONError)
            verdict = Rejection("malformed_json" if malformed else "invalid_envelope", error)
            return ReadMessage(message_key(headers, None, place), f"seq:{place}", verdict=verdict)
        resource_id = envelope.resource_id
        key = given_key(headers, envelope)
        place = "" if key and resource_id else metadata.place
        resource = f"{envelope.resource_type}:{resource_id}" if resource_id else f"seq:{place}"
        handler = self._consumers.find(envelope, self._source)
        return ReadMessage(key or f"seq:{place}", resource, envelope, handler)

    def finish(self, reading: ReadMessage) -> None:
        handler, envelope = reading.handler, reading.envelope
        if handler is None or envelope is None or reading.verdict is not None:
            return
        try:
            if self._steps or handler.options.schema_version is not None:
                envelope = self._of_today(handler, envelope)
            reading.payload = handler.payload(envelope)
            reading.envelope = envelope
        except PayloadError as error:
            reading.verdict = Rejection("invalid_payload", error)
        except (UpcastError, FutureSchemaError) as error:
            reading.verdict = Rejection("unrecoverable", error)
        except _NOT_THE_EVENTS:
            raise
        except Exception as error:  # a validator's own fault, and the same at each try
            reading.verdict = Rejection("invalid_payload", _broken(handler, envelope, error))

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


class DeadLetterReader:
    """Reads this service's dead letters, each independent of all others."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def read(self, msg: Msg, headers: Mapping[str, str], metadata: Metadata) -> ReadMessage:
        letter, envelope = read_letter(msg.data, headers, metadata)
        # Only our own ids tell letters apart: a gem's letter has the id of its original, which
        # may be dead-lettered more than once.
        own = headers.get(ID_HEADER, "")
        place = metadata.place
        key = own if own.startswith(_LETTER_ID) and is_usable_id(own) else f"seq:{place}"
        return ReadMessage(key, f"seq:{place}", envelope or _NO_ENVELOPE, self._handler, letter)

    def finish(self, reading: ReadMessage) -> None:
        """A letter is what its handler gets."""


def _broken(handler: Handler, envelope: ReceivedEnvelope, error: Exception) -> PayloadError:
    """Say where the service's code broke. Not what it said: that may hold the event's values."""
    place = raised_at(error)
    return PayloadError(
        f"reading the payload of {envelope.type!r:.300} for {handler.name} raised "
        f"{class_of(error)}{f' ({place})' if place else ''}; correct it, then replay"
    )
