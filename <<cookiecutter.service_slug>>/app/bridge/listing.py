"""Rows of outbox and inbox as a person looks through them: newest first, a page at a time.

The cursor is the last row's key, and keys never change: no row is shown twice or left out while
others come, go or change their status. Where an index holds the rows asked for, it is read; where
none does, a page ends after `SCANNED` rows looked at, be it empty. So the cost of a page depends
neither on the size of the table nor on how rare the rows are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import Boolean, TextualSelect, text
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel.sql.sqltypes import UTCDateTime

from .columns import JSONDocument
from .envelope import parse
from .errors import BridgeError
from .inbox import InboxStatus
from .outbox import LANES, OutboxStatus

T = TypeVar("T")

SCANNED = 20_000  # rows looked at for one page where no index has those asked for
_NEWEST = 2**63 - 1  # a key behind every other


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows. `next` is the key to go on after, None at the end.

    There may be fewer rows than asked for, even none, and more behind them all the same.
    """

    items: list[T]
    next: int | None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxRow:
    """An event as one durable met it. What a list leaves out is None there."""

    id: int
    consumer: str
    event_id: str
    event_type: str | None
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
    body: bytes | None = None


# --- statements

# Enough of an envelope to find its type, which stands before its payload.
_HEAD = "substr(CAST(payload AS TEXT), 1, 2000) AS head"
_OUTBOX_COLUMNS = f"""id, event_id, {_HEAD}, resource, subject, status, attempts, last_error, held,
       retry_at, enqueued_at, sent_at, created_at, updated_at"""
_INBOX_COLUMNS = f"""id, consumer, event_id, {_HEAD}, subject, status, deliveries, last_error,
       stream, stream_seq, body IS NOT NULL AS parked, received_at, processed_at, created_at,
       updated_at"""
_WHOLE = "CAST(payload AS TEXT) AS payload, headers"
_MOMENTS = ("retry_at", "enqueued_at", "sent_at", "received_at", "processed_at")


def _typed(sql: str) -> TextualSelect:
    statement = text(sql)
    moments = [name for name in (*_MOMENTS, "created_at", "updated_at") if name in sql]
    flags = [name for name in ("held", "parked") if name in sql]
    kinds: dict[str, Any] = dict.fromkeys(moments, UTCDateTime()) | dict.fromkeys(flags, Boolean())
    if "headers" in sql:
        kinds["headers"] = JSONDocument()
    return statement.columns(**kinds)


def _by_key(table: str, columns: str, dialect: str) -> TextualSelect:
    ids = (
        "= ANY(CAST(:ids AS bigint[]))"
        if dialect == "postgresql"
        else "IN (SELECT value FROM json_each(:ids))"
    )
    return _typed(f"SELECT {columns} FROM {table} WHERE id {ids} ORDER BY id DESC")


_IS_EVENT = " AND event_id = :event_id"
_WHOLE_OUTBOX_ROW = _typed(f"""
    SELECT {_OUTBOX_COLUMNS}, {_WHOLE} FROM jetstream_outbox_events WHERE event_id = :event_id""")
_WHOLE_INBOX_ROW = _typed(f"""
    SELECT {_INBOX_COLUMNS}, {_WHOLE}, body FROM jetstream_inbox_events WHERE id = :id""")

_KEYS = "SELECT id FROM {table} WHERE id < :after {narrowed} ORDER BY id DESC LIMIT :number"

# Ready rows are indexed by lane, and held ones apart from them, not by their keys: those are all
# looked at. Comparing (lane, id) as a pair, and `id + 0`, keeps the planner from walking the
# primary key past all that is sent.
_PENDING_KEYS = """
    SELECT id FROM (
      {ready}
      UNION ALL
      SELECT id FROM (SELECT id FROM jetstream_outbox_events WHERE held AND id + 0 < :after
                       ORDER BY id + 0 DESC LIMIT :number) h) p
     ORDER BY id DESC LIMIT :number"""
_READY_OF_LANE = """
      SELECT id FROM (SELECT id FROM jetstream_outbox_events
                       WHERE status = 'pending' AND NOT held
                         AND lane >= {lane} AND (lane, id) < ({lane}, :after)
                       ORDER BY lane DESC, id DESC LIMIT :number) l{lane}"""
_PENDING = _PENDING_KEYS.format(
    ready=" UNION ALL ".join(_READY_OF_LANE.format(lane=lane) for lane in range(LANES))
)

_UNPROCESSED = """
    SELECT id FROM jetstream_inbox_events
     WHERE status <> 'processed' AND status >= '{status}' AND (status, id) < ('{status}', :after)
     ORDER BY status DESC, id DESC LIMIT :number"""

# The unique index has the consumer before the event: each of the few consumers is asked.
_INBOX_EVENT = """
    WITH RECURSIVE c (consumer) AS (
      SELECT min(consumer) FROM jetstream_inbox_events
      UNION ALL
      SELECT (SELECT min(e.consumer) FROM jetstream_inbox_events e WHERE e.consumer > c.consumer)
        FROM c WHERE c.consumer IS NOT NULL)
    SELECT e.id FROM c JOIN jetstream_inbox_events e
        ON e.consumer = c.consumer AND e.event_id = :event_id
     WHERE e.id < :after {narrowed}
     ORDER BY e.id DESC LIMIT :number"""

# The planner's numbers may date from when the table was small or mostly unsent. Every statement
# here has an index that gives its rows in order, and none is helped by another way.
_PG_BY_INDEX = text("""
    SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)
""")

# A second kind of row tells where looking ended, if it ended before the last row.
_SCAN = """
    WITH looked AS (
      SELECT id, {matched} AS matched FROM {table} WHERE id < :after
       ORDER BY id DESC LIMIT :scanned)
    SELECT id, 0 AS is_end FROM (SELECT id FROM looked WHERE matched ORDER BY id DESC
                                 LIMIT :number) m
    UNION ALL
    SELECT min(id), 1 FROM looked HAVING count(*) = :scanned"""


# --- the stores


class _Listing:
    """What both tables share: find the keys, then read their rows."""

    table: str
    columns: str

    def __init__(self, engine: AsyncEngine) -> None:
        # Looking must not take SQLite's write lock; other databases ignore the option.
        self._engine = engine.execution_options(sqlite_begin="DEFERRED")
        self._dialect = engine.dialect.name
        self._rows = _by_key(self.table, self.columns, self._dialect)

    async def _page(
        self, statement: str, after: int | None, limit: int, **parameters: object
    ) -> tuple[Sequence[RowMapping], int | None]:
        given = {"after": after if after is not None else _NEWEST, "number": limit + 1}
        if ":scanned" in statement:
            given["scanned"] = SCANNED
        async with self._engine.connect() as connection:
            if self._dialect == "postgresql":
                await connection.execute(_PG_BY_INDEX)
            found = (await connection.execute(text(statement), {**given, **parameters})).all()
            keys = [row.id for row in found if not getattr(row, "is_end", 0)]
            end = next((row.id for row in found if getattr(row, "is_end", 0)), None)
            if len(keys) > limit:
                keys, end = keys[:limit], keys[limit - 1]
            ids: object = keys if self._dialect == "postgresql" else str(keys)
            rows = (await connection.execute(self._rows, {"ids": ids})).mappings().all()
        return rows, end

    async def _one(self, statement: TextualSelect, **named: object) -> RowMapping | None:
        async with self._engine.connect() as connection:
            return (await connection.execute(statement, named)).mappings().first()

    def _scan(self, matched: str) -> str:
        return _SCAN.format(table=self.table, matched=matched)


class OutboxListing(_Listing):
    """The outbox, for people."""

    table = "jetstream_outbox_events"
    columns = _OUTBOX_COLUMNS

    async def page(
        self,
        *,
        status: OutboxStatus | None = None,
        event_id: str | None = None,
        resource: str | None = None,
        after: int | None = None,
        limit: int = 50,
    ) -> Page[OutboxRow]:
        """Return up to `limit` rows older than the one with key `after`.

        `resource` is `{resource_type}:{resource_id}`.
        """
        narrowed = f" AND status = '{status.value}'" if status is not None else ""
        keys = _KEYS.format(table=self.table, narrowed=narrowed)
        if event_id is not None:
            statement = _KEYS.format(table=self.table, narrowed=narrowed + _IS_EVENT)
            rows, end = await self._page(statement, after, limit, event_id=event_id)
        elif resource is not None:
            statement = self._scan(f"(resource = :resource {narrowed})")
            rows, end = await self._page(statement, after, limit, resource=resource)
        elif status is OutboxStatus.PENDING:
            rows, end = await self._page(_PENDING, after, limit)
        elif status is OutboxStatus.SENT:
            rows, end = await self._page(self._scan("(status = 'sent')"), after, limit)
        else:
            rows, end = await self._page(keys, after, limit)
        return Page([_outbox_row(row) for row in rows], end)

    async def get(self, event_id: str) -> OutboxRow | None:
        """Return one row whole."""
        row = await self._one(_WHOLE_OUTBOX_ROW, event_id=event_id)
        return _outbox_row(row) if row is not None else None


class InboxListing(_Listing):
    """The inbox of all durables, for people."""

    table = "jetstream_inbox_events"
    columns = _INBOX_COLUMNS

    async def page(
        self,
        *,
        status: InboxStatus | None = None,
        event_id: str | None = None,
        resource: str | None = None,
        after: int | None = None,
        limit: int = 50,
    ) -> Page[InboxRow]:
        """Return up to `limit` rows older than the one with key `after`."""
        narrowed = f" AND status = '{status.value}'" if status is not None else ""
        if event_id is not None:
            statement = _INBOX_EVENT.format(narrowed=narrowed)
            rows, end = await self._page(statement, after, limit, event_id=event_id)
        elif resource is not None:
            return await self._of_resource(resource, narrowed, after, limit)
        elif status is InboxStatus.PROCESSED:
            rows, end = await self._page(self._scan("(status = 'processed')"), after, limit)
        elif status is not None:
            statement = _UNPROCESSED.format(status=status.value)
            rows, end = await self._page(statement, after, limit)
        else:
            rows, end = await self._page(_KEYS.format(table=self.table, narrowed=""), after, limit)
        return Page([_inbox_row(row) for row in rows], end)

    async def _of_resource(
        self, resource: str, narrowed: str, after: int | None, limit: int
    ) -> Page[InboxRow]:
        """The table has no resource, so the database picks what mentions the id, and the envelope
        decides."""
        matched = f"(coalesce(CAST(payload AS TEXT), '') LIKE :mention {narrowed})"
        rows, end = await self._page(self._scan(matched), after, limit, mention=_mention(resource))
        found: list[InboxRow] = []
        for row in rows:
            whole = await self.get(row["id"])
            if whole is not None and _resource_of(whole.payload) == resource:
                found.append(_inbox_row(row))
        return Page(found, end)

    async def get(self, key: int) -> InboxRow | None:
        """Return one row whole."""
        row = await self._one(_WHOLE_INBOX_ROW, id=key)
        return _inbox_row(row) if row is not None else None


# --- rows


def _outbox_row(row: RowMapping) -> OutboxRow:
    fields: dict[str, Any] = {**row}
    event_type = event_type_in(fields.pop("head"))
    fields["status"] = OutboxStatus(fields["status"])
    return OutboxRow(event_type=event_type, **fields)


def _inbox_row(row: RowMapping) -> InboxRow:
    fields: dict[str, Any] = {**row}
    event_type = event_type_in(fields.pop("head"))
    fields["status"] = InboxStatus(fields["status"])
    return InboxRow(event_type=event_type, **fields)


_TYPE = re.compile(r'\s*\{[^{}\[\]]*?"event_type"\s*:\s*"((?:[^"\\]|\\.)*)"')


def event_type_in(head: str | None) -> str | None:
    """Find the type in an envelope's beginning, without reading the whole.

    Only what stands before any nested value counts: a payload may have an `event_type` too.
    """
    found = _TYPE.match(head or "")
    return found.group(1) if found else None


def _mention(resource: str) -> str:
    plain = re.fullmatch(r"[\w-]+", resource.partition(":")[2], re.ASCII)
    return f"%{plain.group()[:200]}%" if plain else "%"


def _resource_of(payload: str | None) -> str | None:
    try:
        envelope = parse((payload or "").encode())
    except (BridgeError, UnicodeError):
        return None
    return f"{envelope.resource_type}:{envelope.resource_id}"
