"""A row of the outbox as a message. Whatever is wrong with a row is that row's refusal.

Other programs write rows too, and SQLite keeps whatever it is given. So a claim reads its rows
in a form that cannot fail, and what a row cannot be made into stands in its message as a flaw.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Boolean, Text
from sqlalchemy.types import TypeEngine

from jetstream_bridge.core.columns import LenientText
from jetstream_bridge.events.headers import write_block
from jetstream_bridge.events.wire_rules import (
    GEM_ID_HEADER,
    event_id_flaw,
    headers_flaw,
    subject_flaw,
)
from jetstream_bridge.nats.outgoing import Outgoing

MOST_ATTEMPTS = 1_000_000  # a number that can still be counted up, whatever stands there


class OutboxRow(NamedTuple):
    """A row as a claim reads it, in the order of `COLUMNS`.

    What SQLAlchemy reads is put into it at once: each attribute of its own rows costs a relay as
    much as a message's headers.
    """

    id: int
    event_id: str
    subject: str
    body: str
    headers: str  # JSON
    attempts: int
    resource: str  # empty: none
    held: bool
    lane: int
    part: int  # 0: due for another try; 1: ready
    enqueued: float | None  # seconds since 1970
    first_held: int | None


# `first_held` is the oldest waiting row of the same resource: before this row, it blocks it;
# after it, it may go on when this row is stored. Rows without a resource wait for nobody.
# `enqueued` is in seconds since 1970, or NULL.
_FIRST_HELD = """(SELECT min(h.id) FROM jetstream_outbox_events h
                   WHERE h.held AND h.resource = e.resource AND h.resource <> ''
                     AND h.id <> e.id) AS first_held"""
# On PostgreSQL it is looked for once for each resource of `taken` rows, and not for each row: what
# was held before stays in the index beside an old snapshot. The second one is that of the first.
PG_HELD = """
    SELECT r.resource, ARRAY(SELECT h.id FROM jetstream_outbox_events h
                              WHERE h.held AND h.resource = r.resource
                              ORDER BY h.id LIMIT 2) AS ids
      FROM (SELECT DISTINCT resource FROM taken WHERE resource <> '') r"""

COLUMNS = {
    "postgresql": f"""
        e.id, e.event_id, e.subject, CAST(e.payload AS TEXT) AS body,
        CAST(e.headers AS TEXT) AS headers, least(e.attempts, {MOST_ATTEMPTS}) AS attempts,
        e.resource, e.held, e.lane, e.part,
        CAST(extract(epoch FROM e.enqueued_at) AS float8) AS enqueued,
        CASE WHEN h.ids[1] = e.id THEN h.ids[2] ELSE h.ids[1] END AS first_held""",
    "sqlite": f"""
        e.id, CAST(e.event_id AS BLOB) AS event_id, CAST(e.subject AS BLOB) AS subject,
        CAST(e.payload AS BLOB) AS body, CAST(e.headers AS BLOB) AS headers,
        min(CAST(e.attempts AS INTEGER), {MOST_ATTEMPTS}) AS attempts,
        CAST(e.resource AS BLOB) AS resource, NOT NOT e.held AS held, 0 AS lane, t.part,
        CASE typeof(e.enqueued_at) WHEN 'text'
          THEN (julianday(e.enqueued_at) - 2440587.5) * 86400 END AS enqueued,
        {_FIRST_HELD}""",
}

TYPES: dict[str, dict[str, TypeEngine[Any]]] = {
    "postgresql": {"body": Text(), "headers": Text()},
    "sqlite": {
        # Half of a surrogate pair stands for a byte that is none, and is found as a flaw. The
        # resource is a parameter of statements, which must be Unicode.
        **{
            name: LenientText("surrogateescape")
            for name in ("event_id", "subject", "body", "headers")
        },
        "resource": LenientText("replace"),
        "held": Boolean(),
    },
}


def message_of(row: OutboxRow, id_header: str) -> Outgoing:
    """Return the message that `row` is, with its flaw if it cannot be sent; never raises."""
    try:
        return _message(row, id_header)
    except Exception as error:  # any: the next row must not wait for what this one is
        return Outgoing(row.id, str(row.subject), b"", {}, flaw=f"unreadable row: {error!a}")


def _message(row: OutboxRow, id_header: str) -> Outgoing:
    headers = _own(json.loads(row.headers)) if row.headers != "{}" else {}
    flaw = subject_flaw(row.subject) or event_id_flaw(row.event_id) or headers_flaw(headers)
    if flaw is not None:
        return Outgoing(row.id, str(row.subject), b"", {}, flaw=flaw)
    headers[id_header] = row.event_id
    body = row.body.encode()
    return Outgoing(row.id, row.subject, body, headers, block=write_block(headers))


def _own(headers: Any) -> Any:
    """Leave out the event's id, which the relay writes itself and peers spell in their own way."""
    if not isinstance(headers, Mapping):
        return headers
    return {name: value for name, value in headers.items() if name.lower() != GEM_ID_HEADER}
