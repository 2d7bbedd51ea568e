"""Rows of outbox and inbox as they are shown, whoever wrote them and whatever they hold.

One odd row must not break the page that it stands on. On PostgreSQL every text is one. SQLite
keeps whatever bytes it is given, also as the value of a generated column, so there texts are read
as bytes, and what is no text among them is shown as U+FFFD.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, TextualSelect, text
from sqlalchemy.engine import RowMapping
from sqlmodel.sql.sqltypes import UTCDateTime

from jetstream_bridge.core.columns import LenientText, storable
from jetstream_bridge.core.errors import MalformedJSONError
from jetstream_bridge.core.tries import Try, read_tries
from jetstream_bridge.events.json_documents import read_json
from jetstream_bridge.inbox.tables import InboxStatus
from jetstream_bridge.outbox.tables import OutboxStatus

DIALECTS = ("postgresql", "sqlite")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    """An event on its way out. Payload and headers are read for one row only, not for a list."""

    id: int
    event_id: str
    event_type: str | None
    resource: str
    subject: str
    status: OutboxStatus
    attempts: int
    last_error: str | None
    held: bool
    retry_at: datetime | None
    enqueued_at: datetime
    sent_at: datetime | None
    created_at: datetime
    updated_at: datetime
    payload: str | None = None  # the envelope's JSON
    headers: Mapping[str, Any] | None = None
    tries: list[Try] = field(default_factory=list)  # those that failed, the last few


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxRow:
    """An event as one durable met it. What a list leaves out is None there."""

    id: int
    consumer: str
    event_id: str
    event_type: str | None
    resource: str | None  # None where the envelope's beginning does not tell
    subject: str
    status: InboxStatus
    deliveries: int
    last_error: str | None
    stream: str | None
    stream_seq: int | None
    parked: bool  # the event is kept here, and not as a dead letter
    received_at: datetime
    processed_at: datetime | None
    created_at: datetime
    updated_at: datetime
    payload: str | None = None
    headers: Mapping[str, Any] | None = None
    tries: list[Try] = field(default_factory=list)  # those that failed, the last few
    body: bytes | None = None


# Enough of an envelope to find its type, which stands before its payload.
HEAD = "substr(CAST(payload AS TEXT), 1, 2000)"
_TEXTS = ("event_id", "head", "resource", "subject", "last_error", "payload", "headers", "tries")
_MOMENTS = ("retry_at", "enqueued_at", "sent_at", "received_at", "processed_at")
_CAST = {"postgresql": "TEXT", "sqlite": "BLOB"}


def _columns(of_table: str, dialect: str) -> str:
    kind = _CAST[dialect]
    shared = ", ".join(
        f"CAST({name} AS {kind}) AS {name}" for name in ("event_id", "subject", "last_error")
    )
    return f"""id, {shared}, CAST({HEAD} AS {kind}) AS head, status, created_at, updated_at,
       {of_table}"""


OUTBOX_COLUMNS = {
    dialect: _columns(
        f"""CAST(resource AS {_CAST[dialect]}) AS resource, attempts, held, retry_at,
       enqueued_at, sent_at""",
        dialect,
    )
    for dialect in DIALECTS
}
INBOX_COLUMNS = {
    dialect: _columns(
        """consumer, deliveries, stream, stream_seq, body IS NOT NULL AS parked, received_at,
       processed_at""",
        dialect,
    )
    for dialect in DIALECTS
}
# Of one row only, not for a list.
DOCUMENTS = {
    dialect: (
        f"CAST(payload AS {kind}) AS payload, CAST(headers AS {kind}) AS headers, "
        f"CAST(tries AS {kind}) AS tries"
    )
    for dialect, kind in _CAST.items()
}


def typed(sql: str, dialect: str) -> TextualSelect:
    """Return a statement whose columns are read as what they are."""
    moments = [name for name in (*_MOMENTS, "created_at", "updated_at") if name in sql]
    flags = [name for name in ("held", "parked") if name in sql]
    kinds: dict[str, Any] = dict.fromkeys(moments, UTCDateTime()) | dict.fromkeys(flags, Boolean())
    if dialect == "sqlite":
        kinds |= {name: LenientText("replace") for name in _TEXTS if f" AS {name}" in sql}
    return text(sql).columns(**kinds)


def _headers(text: str | None) -> dict[str, Any] | None:
    """Read the headers of a row, whoever wrote them; what is no object is shown under no name."""
    if text is None:
        return None
    try:
        value, _ = read_json(text.encode(errors="replace"))
    except MalformedJSONError:
        value = storable(text)
    return value if isinstance(value, dict) else {"": value}


def _top_level(name: str) -> re.Pattern[str]:
    text, number = r'"((?:[^"\\]|\\.)*)"', r"(-?\d+)(?=\s*[,}])"
    return re.compile(rf'\s*\{{[^{{}}\[\]]*?"{name}"\s*:\s*(?:{text}|{number})')


_TOP_LEVEL = {name: _top_level(name) for name in ("event_type", "resource_type", "resource_id")}


def _in_head(head: str | None, name: str, *, number: bool = False) -> str | None:
    """Find a field in an envelope's beginning, without reading the whole.

    Only what stands before any nested value counts: a payload may have such a field too.
    """
    found = _TOP_LEVEL[name].match(head or "")
    if found is None:
        return None
    return found[2] if number and found[1] is None else found[1]


def event_type_in(head: str | None) -> str | None:
    return _in_head(head, "event_type")


def resource_in(head: str | None) -> str | None:
    """Return `{resource_type}:{resource_id}`."""
    kind, named = _in_head(head, "resource_type"), _in_head(head, "resource_id", number=True)
    return None if kind is None or named is None else f"{kind}:{named}"


def outbox_row(row: RowMapping) -> OutboxRow:
    fields = _fields(row)
    fields["status"] = OutboxStatus(fields["status"])
    return OutboxRow(**fields)


def inbox_row(row: RowMapping) -> InboxRow:
    fields = _fields(row)
    fields["resource"] = resource_in(row["head"])
    fields["status"] = InboxStatus(fields["status"])
    return InboxRow(**fields)


def _fields(row: RowMapping) -> dict[str, Any]:
    fields: dict[str, Any] = {**row}
    fields["event_type"] = event_type_in(fields.pop("head"))
    fields["headers"] = _headers(fields.get("headers"))
    fields["tries"] = read_tries(fields.get("tries"))
    return fields
