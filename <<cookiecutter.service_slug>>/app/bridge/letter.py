"""One dead letter as JetStream keeps it, read whatever its body is and whoever wrote it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass

from .dead_letters import LETTER_ID
from .envelope import GEM_ID_HEADER, is_usable_id, parse
from .errors import BridgeError, InvalidSubjectError
from .stream_api import Json
from .subjects import validate_subject


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter. What its writer did not tell, or not readably, is None."""

    sequence: int
    time: str  # when the stream stored it, RFC 3339
    subject: str | None  # of the original event, and where a replay puts it
    reason: str | None
    error: str | None
    error_class: str | None
    deliveries: int | None
    consumer: str | None
    event_id: str | None  # the receiver's key of the event
    event_type: str | None  # as a handler is registered for it: `customer.created`
    event_types: frozenset[str]  # both spellings
    resource: str | None
    headers: dict[str, str]
    body: bytes


def letter_of(message: Json) -> Letter:
    """Read what `STREAM.MSG.GET` returned."""
    body = base64.b64decode(message.get("data") or "")
    headers = read_headers(base64.b64decode(message.get("hdrs") or ""))
    context = _context(headers)
    try:
        envelope = parse(body)
    except BridgeError:
        envelope = None
    types = {envelope.event_type, envelope.type} if envelope is not None else set()
    return Letter(
        sequence=int(message["seq"]),
        time=str(message["time"]),
        subject=_subject(context.get("original_subject")),
        reason=headers.get("x-dlq-reason") or _text(context.get("reason")),
        error=_text(context.get("error_message")),
        error_class=_text(context.get("error_class")),
        deliveries=_number(headers.get("x-deliveries"), context.get("deliveries")),
        consumer=_text(context.get("consumer")),
        event_id=_key(headers, context),
        event_type=envelope.type if envelope is not None else None,
        event_types=frozenset(types),
        resource=f"{envelope.resource_type}:{envelope.resource_id}" if envelope else None,
        headers=headers,
        body=body,
    )


def read_headers(block: bytes) -> dict[str, str]:
    """Read a NATS header block: `NATS/1.0`, then a line for each header."""
    lines = block.decode("utf-8", "replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name: value.strip() for name, _, value in pairs}


def _context(headers: Mapping[str, str]) -> Json:
    try:
        context = json.loads(headers.get("x-dlq-context", ""))
    except (ValueError, RecursionError):
        return {}
    return context if isinstance(context, dict) else {}


def _key(headers: Mapping[str, str], context: Json) -> str | None:
    """The original id: a peer's letter keeps it in its header, ours in the context."""
    for name, value in headers.items():
        if name.lower() == GEM_ID_HEADER and not value.startswith(LETTER_ID):
            return value if is_usable_id(value) else None
    key = _text(context.get("event_id"))
    return key if is_usable_id(key) else None


def _subject(value: object) -> str | None:
    try:
        return validate_subject(value) if isinstance(value, str) else None
    except InvalidSubjectError:
        return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(*values: object) -> int | None:
    for value in values:
        text = str(value)
        if text.isdecimal() and len(text) < 10:
            return int(text)
    return None
