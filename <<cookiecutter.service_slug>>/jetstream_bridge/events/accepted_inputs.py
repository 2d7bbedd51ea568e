"""The forms in which an event may be given to `publish`, made one: what `envelope.build` takes.

A field is given once, or twice with the same value. What a complete envelope says is kept, with
fields that nobody here knows; what it leaves out is filled in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields as fields_of
from datetime import datetime
from typing import Any, TypedDict
from uuid import UUID

from pydantic import BaseModel

from jetstream_bridge.core.errors import InvalidEventError
from jetstream_bridge.events.envelope import Envelope, Payload, id_text
from jetstream_bridge.events.event import Event
from jetstream_bridge.events.received_envelope import parse_timestamp

EnvelopeLike = Mapping[str, Any] | BaseModel | Envelope | Event[Any]


class EventFields(TypedDict, total=False):
    """What may be said of an event by keyword. None is the same as leaving it out."""

    resource_type: str | None  # else the first part of a dotted event type, else `event`
    resource_id: str | int | UUID | None  # else the payload's `id`, else its `resource_id`
    event_id: str | UUID | None  # else a new UUID, version 7
    trace_id: str | None  # else the current trace's, else a random one
    occurred_at: datetime | str | None  # with a time zone; else now
    schema_version: int | None  # of the payload, from 1; else 1
    producer: str | None  # else this service
    destination: str | None  # another service than the default one
    subject: str | None  # instead of the one that the destination has
    headers: Mapping[str, str] | None


_WIRE = frozenset(field.name for field in fields_of(Envelope)) - {"extra"}
_ROUTE = frozenset({"destination", "subject", "headers"})
_KEYWORDS = dict.fromkeys(EventFields.__annotations__)
_REMEDY = (
    'write publish("customer.created", {...}), or give a complete envelope with event_type '
    "and payload"
)


def arguments(
    event: str | EnvelopeLike | None, payload: Payload | None, given: EventFields
) -> dict[str, Any]:
    """Return the arguments for `envelope.build`, or raise `InvalidEventError` naming the fault."""
    if unknown := given.keys() - _KEYWORDS.keys():
        known = ", ".join(_KEYWORDS)
        raise TypeError(f"publish() has no argument {min(unknown)!r}; it has {known}")
    said = {
        name: value for name, value in given.items() if value is not None and name not in _ROUTE
    }
    if isinstance(event, str):
        if payload is None:
            raise InvalidEventError(f"payload is missing for the event {event!r}; {_REMEDY}")
        return {"event_type": event, "payload": payload, **said}
    if payload is not None:
        said["payload"] = payload
    return _merged(_mapping(event), said)


def type_in(said: Mapping[str, Any]) -> str:
    """Return the dotted type in what `arguments` returned, however it was spelled."""
    event_type, resource_type = str(said["event_type"]), said.get("resource_type")
    if "." in event_type or not resource_type:
        return event_type
    return f"{resource_type}.{event_type}"


def _mapping(event: EnvelopeLike | None) -> Mapping[str, Any]:
    if isinstance(event, Event):
        return event.to_envelope()
    if isinstance(event, Envelope):
        known = {name: getattr(event, name) for name in _WIRE}
        return {**known, **event.extra}
    if isinstance(event, BaseModel):
        return event.model_dump(mode="json")
    if isinstance(event, Mapping):
        return event
    shown = "missing" if event is None else f"of type {type(event).__name__}"
    raise InvalidEventError(f"event_type is {shown}; {_REMEDY}")


def _merged(envelope: Mapping[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """Join what the envelope and the keywords say; blank fields of the envelope say nothing."""
    merged = {name: envelope[name] for name in _WIRE if envelope.get(name) not in (None, "")}
    for name, value in said.items():
        if name in merged and not _same(name, merged[name], value):
            raise InvalidEventError(
                f"{name} is {_shown(name, merged[name])} in the envelope and "
                f"{_shown(name, value)} in the call; give it once"
            )
        merged[name] = value
    for name in ("event_type", "payload"):
        if name not in merged:
            raise InvalidEventError(f"the envelope has no {name}; {_REMEDY}")
    if envelope.get("resource_id") == "":
        merged.setdefault("resource_id", "")  # the sender said that it has none
    merged["extra"] = {name: value for name, value in envelope.items() if name not in _WIRE}
    _check_extra(merged["extra"])
    return merged


def _check_extra(extra: Mapping[Any, Any]) -> None:
    for name in extra:
        if not isinstance(name, str):
            raise InvalidEventError(f"the envelope has a field {name!r}; a name is a text")


def _same(name: str, left: object, right: object) -> bool:
    if name == "payload":
        return _plain(left) == _plain(right)
    if name == "occurred_at":
        return _moment(left) == _moment(right)
    if name in ("event_id", "resource_id"):
        return id_text(left) == id_text(right)
    return left == right


def _plain(payload: object) -> object:
    return payload.model_dump(mode="json") if isinstance(payload, BaseModel) else payload


def _moment(value: object) -> object:
    return value if isinstance(value, datetime) else parse_timestamp(value) or value


def _shown(name: str, value: object) -> str:
    """A payload may be personal, and this text is logged."""
    return "one thing" if name == "payload" else repr(value)
