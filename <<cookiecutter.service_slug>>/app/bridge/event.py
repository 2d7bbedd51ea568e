"""What a handler gets: an event that was read, checked and cannot be changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """Where an event came from. `timestamp` is the moment the stream stored it."""

    subject: str
    stream: str
    sequence: int
    consumer: str
    deliveries: int  # 1 the first time
    timestamp: datetime
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Generic[T]):
    """One event. `payload` is what the handler's annotation says: a model, or a `dict`."""

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
