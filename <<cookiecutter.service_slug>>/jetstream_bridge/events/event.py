"""What a handler gets: an event that was read, checked and cannot be changed.

One is made for every event, so making it is cheap: what is frozen is frozen when somebody
looks at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel

from jetstream_bridge.events.frozen_json import FrozenDict, frozen, thawed

T = TypeVar("T")

_NO_HEADERS: Mapping[str, str] = FrozenDict()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(moment: datetime) -> int:
    """Whole microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def moment_of(nanoseconds: int) -> datetime:
    """The moment so long after 1970, cut to microseconds: the same for whoever reads it."""
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Where an event came from. `timestamp` is the moment the stream stored it."""

    subject: str
    stream: str
    sequence: int
    consumer: str
    deliveries: int  # 1 the first time
    timestamp: datetime
    headers: Mapping[str, str]

    def __init__(
        self,
        *,
        subject: str,
        stream: str,
        sequence: int,
        consumer: str,
        deliveries: int,
        timestamp: datetime,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> None:
        # Half the time of the `object.__setattr__` calls that a frozen dataclass makes.
        fields = self.__dict__
        fields["subject"] = subject
        fields["stream"] = stream
        fields["sequence"] = sequence
        fields["consumer"] = consumer
        fields["deliveries"] = deliveries
        fields["timestamp"] = timestamp
        fields["_headers"] = headers

    @property
    def stored_us(self) -> int:
        """Microseconds since 1970 at which the stream stored the message."""
        return microseconds(self.timestamp)

    @property
    def place(self) -> str:
        """Names the message for ever. A sequence alone does not: a stream that is deleted and
        made anew, or whose store was lost, counts from 1 again."""
        return f"{self.sequence}:{self.stored_us}"

    if not TYPE_CHECKING:  # or every misspelt attribute would have a type

        def __getattr__(self, name: str) -> Any:
            """Freeze `headers` when they are first asked for."""
            if name != "headers":
                raise AttributeError(f"Metadata has no attribute {name!r}")
            headers = self.__dict__["headers"] = FrozenDict(self.__dict__["_headers"])
            return headers


def read_headers(metadata: Metadata) -> Mapping[str, str]:
    """Return `metadata.headers` for somebody who only reads them: freezing takes a copy."""
    headers: Mapping[str, str] = metadata.__dict__["_headers"]
    return headers


@dataclass(frozen=True, kw_only=True)
class Event(Generic[T]):
    """One event. `payload` is what the handler's annotation says: a model, or a `dict`.

    A `dict` cannot be changed, and its keys are attributes too: `event.payload.customer.name`.
    A model is as changeable as its class says.
    """

    event_id: str
    type: str  # the dotted spelling, `customer.created`
    event_type: str  # as it stood on the wire, `customer.created` or `created`
    resource_type: str
    resource_id: str
    producer: str
    trace_id: str
    schema_version: int
    occurred_at: datetime | None  # None when the sender gave none that can be read
    payload: T
    metadata: Metadata
    raw: Mapping[str, Any]  # the whole envelope, unknown fields included

    def __init__(
        self,
        *,
        event_id: str,
        type: str,
        event_type: str,
        resource_type: str,
        resource_id: str,
        producer: str,
        trace_id: str,
        schema_version: int,
        occurred_at: datetime | None,
        payload: T,
        metadata: Metadata,
        raw: Mapping[str, Any],
    ) -> None:
        fields = self.__dict__
        fields["event_id"] = event_id
        fields["type"] = type
        fields["event_type"] = event_type
        fields["resource_type"] = resource_type
        fields["resource_id"] = resource_id
        fields["producer"] = producer
        fields["trace_id"] = trace_id
        fields["schema_version"] = schema_version
        fields["occurred_at"] = occurred_at
        fields["metadata"] = metadata
        fields["_payload"] = payload
        fields["_raw"] = raw

    if not TYPE_CHECKING:  # or every misspelt attribute would have a type

        def __getattr__(self, name: str) -> Any:
            """Freeze `payload` or `raw` when it is first asked for."""
            if name not in ("payload", "raw"):
                raise AttributeError(f"an Event has no attribute {name!r}")
            value = self.__dict__[name] = frozen(self.__dict__["_" + name])
            return value

    @property
    def subject(self) -> str:
        return self.metadata.subject

    @property
    def stream(self) -> str:
        return self.metadata.stream

    @property
    def sequence(self) -> int:
        return self.metadata.sequence

    @property
    def deliveries(self) -> int:
        return self.metadata.deliveries

    def to_envelope(self) -> dict[str, Any]:
        """Return the whole envelope, fields that nobody here knows included: a copy to change.

        What the sender left out or wrote unreadably has the value that this event has; a time
        that is unknown is the moment the stream stored it. Publishing it again as it is means
        the same event id: inside the duplicate window the stream takes that for the same event.
        """
        sent = self.raw
        known = {
            "event_id": self.event_id,
            "schema_version": self._sent_version(),
            "event_type": self.event_type,
            "producer": self.producer,
            "resource_id": self.resource_id,
            "occurred_at": self._occurred_at(),
            "trace_id": self.trace_id,
            "resource_type": self.resource_type,
            "payload": sent["payload"] if "payload" in sent else self._plain_payload(),
        }
        return {name: thawed(value) for name, value in {**known, **_unknown(sent, known)}.items()}

    def _sent_version(self) -> int:
        """The version of the payload as it was sent: an up-caster's newer one is not in `raw`."""
        version = self.raw.get("schema_version", 1 if self.raw else self.schema_version)
        return version if type(version) is int else 1

    def _occurred_at(self) -> str:
        if self.occurred_at is not None and "occurred_at" in self.raw:
            return str(self.raw["occurred_at"])
        moment = self.occurred_at or self.metadata.timestamp
        return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _plain_payload(self) -> Any:
        payload: object = self.payload
        return payload.model_dump(mode="json") if isinstance(payload, BaseModel) else payload

    def __hash__(self) -> int:
        return hash(self.event_id)

    def __repr__(self) -> str:
        """Never the payload: this text ends in logs, and the payload may be personal."""
        return (
            f"<Event {self.type} {self.event_id} from {self.producer}, delivery {self.deliveries}>"
        )


def _unknown(sent: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sent.items() if name not in known}
