"""The envelope and the headers of an event as JSON Schema: what WIRE's writers and readers keep to.

A writer always writes the nine fields. A reader needs the type and the payload, and ignores what
it does not know.
"""

from __future__ import annotations

from typing import Any

from jetstream_bridge.events.wire_rules import GEM_ID_HEADER, ID_HEADER, MAX_ID

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_FIELDS: dict[str, Schema] = {
    "event_id": {"type": "string", "minLength": 1, "maxLength": MAX_ID},
    "schema_version": {"type": "integer", "minimum": 1},
    "event_type": _TEXT,
    "producer": {"type": "string", "description": "The service that published it"},
    "resource_id": {"type": "string", "description": "Empty: the event has no order"},
    "occurred_at": {"type": "string", "format": "date-time"},
    "trace_id": _TEXT,
    "resource_type": _TEXT,
    "payload": {},
}


def written_envelope(event_type: str, version: int, producer: str, payload: Schema) -> Schema:
    """The envelope of a published event; `payload` is the schema of its payload."""
    said = {
        "event_type": {"const": event_type},
        "schema_version": {"const": version},
        "producer": {**_FIELDS["producer"], "examples": [producer]},
        "payload": payload,
    }
    return {"type": "object", "properties": {**_FIELDS, **said}, "required": [*_FIELDS]}


def read_envelope(pattern: str, version: int | None, payload: Schema) -> Schema:
    """The envelope of an event that a handler of `pattern` takes."""
    said = {**_types(pattern), "payload": payload}
    if version is not None:
        said["schema_version"] = {**_FIELDS["schema_version"], "maximum": version}
    # What a sender leaves out or writes unreadably is no fault: it counts as unknown.
    lenient = {**_FIELDS, "occurred_at": {}}
    return {
        "type": "object",
        "properties": {**lenient, **said},
        "required": ["event_type", "payload"],
    }


def _types(pattern: str) -> dict[str, Schema]:
    """A dotted type comes whole, or as a resource type and the rest."""
    if pattern == "*":
        return {}
    resource, dot, rest = pattern.partition(".")
    if pattern.endswith(".*"):
        text = f"Begins with {pattern[:-1]}, or with the resource type {resource} beside it"
        return {"event_type": {"type": "string", "description": text}}
    if not dot:
        return {"event_type": {"const": pattern}}
    text = f"{rest} with the resource type {resource} is the same"
    return {"event_type": {"enum": [pattern, rest], "description": text}}


def headers(*, gem_peer: bool, required: bool = True) -> Schema:
    """The headers of an event."""
    id_header = GEM_ID_HEADER if gem_peer else ID_HEADER
    found: Schema = {
        "type": "object",
        "properties": {
            id_header: {"type": "string", "description": "The event's id"},
            "traceparent": {"type": "string", "description": "W3C trace context"},
            "tracestate": {"type": "string"},
        },
    }
    if required:
        found["required"] = [id_header]
    return found


DEAD_LETTER_HEADERS: Schema = {
    "type": "object",
    "properties": {
        ID_HEADER: {"type": "string", "pattern": "^dlq:"},
        "x-dead-letter": {"const": "true"},
        "x-dlq-reason": {
            "enum": [
                *("malformed_json", "invalid_envelope", "invalid_payload"),
                *("unrecoverable", "max_deliver_exceeded", "no_handler"),
            ]
        },
        "x-deliveries": {"type": "string", "pattern": "^[0-9]+$"},
        "x-dlq-context": {"type": "string", "description": "JSON: where it came from, and why"},
    },
    "required": [ID_HEADER, "x-dead-letter", "x-dlq-reason", "x-deliveries", "x-dlq-context"],
}
