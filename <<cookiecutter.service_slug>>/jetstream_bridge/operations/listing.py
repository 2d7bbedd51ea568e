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
from typing import Generic, TypeVar

from sqlalchemy import TextualSelect, text
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge.core.errors import BridgeError
from jetstream_bridge.events.received_envelope import parse
from jetstream_bridge.inbox.tables import InboxStatus
from jetstream_bridge.operations.listed_rows import (
    DIALECTS,
    DOCUMENTS,
    HEAD,
    INBOX_COLUMNS,
    OUTBOX_COLUMNS,
    InboxRow,
    OutboxRow,
    inbox_row,
    outbox_row,
    typed,
)
from jetstream_bridge.outbox.tables import LANES, OutboxStatus

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


# --- statements


def _by_key(table: str, columns: str, dialect: str) -> TextualSelect:
    ids = (
        "= ANY(CAST(:ids AS bigint[]))"
        if dialect == "postgresql"
        else "IN (SELECT value FROM json_each(:ids))"
    )
    return typed(f"SELECT {columns} FROM {table} WHERE id {ids} ORDER BY id DESC", dialect)


_IS_EVENT = " AND event_id = :event_id"
_WHOLE_OUTBOX_ROW = {
    dialect: typed(
        f"""SELECT {OUTBOX_COLUMNS[dialect]}, {DOCUMENTS[dialect]}
              FROM jetstream_outbox_events WHERE event_id = :event_id""",
        dialect,
    )
    for dialect in DIALECTS
}
_WHOLE_INBOX_ROW = {
    dialect: typed(
        f"""SELECT {INBOX_COLUMNS[dialect]}, {DOCUMENTS[dialect]}, body
              FROM jetstream_inbox_events WHERE id = :id""",
        dialect,
    )
    for dialect in DIALECTS
}

_KEYS = "SELECT id FROM {table} WHERE id < :after {narrowed} ORDER BY id DESC LIMIT :number"

# Ready rows are indexed by lane, and held ones apart from them, not by their keys: those are all
# looked at. Below its lane's floor nothing is ready (see `outbox.floors`). Comparing (lane, id) as
# a pair, and `id + 0`, keeps the planner from walking the primary key past all that is sent.
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
                         AND (lane, id) > ({lane}, coalesce((
                               SELECT floor FROM jetstream_outbox_lanes WHERE lane = {lane}), 0))
                         AND (lane, id) < ({lane}, :after)
                       ORDER BY lane DESC, id DESC LIMIT :number) l{lane}"""
_PENDING = _PENDING_KEYS.format(
    ready=" UNION ALL ".join(_READY_OF_LANE.format(lane=lane) for lane in range(LANES))
)

_HELD_KEYS = """
    SELECT id FROM jetstream_outbox_events WHERE held AND id + 0 < :after
     ORDER BY id + 0 DESC LIMIT :number"""

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

# The type stands in the envelope: the database picks what mentions it, and the row decides.
_MENTIONS_TYPE = f"{HEAD} LIKE :type ESCAPE '!'"

# A second kind of row tells where looking ended, if it ended before the last row. `narrowed` is
# what an index has, `matched` what each row is asked.
_SCAN = """
    WITH looked AS (
      SELECT id, {matched} AS matched FROM {table} WHERE id < :after {narrowed}
       ORDER BY id DESC LIMIT :scanned)
    SELECT id, 0 AS is_end FROM (SELECT id FROM looked WHERE matched ORDER BY id DESC
                                 LIMIT :number) m
    UNION ALL
    SELECT min(id), 1 FROM looked HAVING count(*) = :scanned"""


# --- the stores


class _Listing:
    """What both tables share: find the keys, then read their rows."""

    table: str
    columns: Mapping[str, str]  # by dialect

    def __init__(self, engine: AsyncEngine) -> None:
        # Looking must not take SQLite's write lock; other databases ignore the option.
        self._engine = engine.execution_options(sqlite_begin="DEFERRED")
        self._dialect = engine.dialect.name
        self._rows = _by_key(self.table, self.columns[self._dialect], self._dialect)

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

    def _scan(self, matched: list[str], narrowed: str = "") -> str:
        return _SCAN.format(
            table=self.table, matched=f"({' AND '.join(matched)})", narrowed=narrowed
        )


class OutboxListing(_Listing):
    """The outbox, for people."""

    table = "jetstream_outbox_events"
    columns = OUTBOX_COLUMNS

    async def page(
        self,
        *,
        status: OutboxStatus | None = None,
        event_id: str | None = None,
        resource: str | None = None,
        event_type: str | None = None,
        blocked: bool = False,
        after: int | None = None,
        limit: int = 50,
    ) -> Page[OutboxRow]:
        """Return up to `limit` rows older than the one with key `after`.

        `resource` is `{resource_type}:{resource_id}`; `blocked` are those that wait for their next
        try, or behind one that does.
        """
        narrowed = f" AND status = '{status.value}'" if status is not None else ""
        matched = ["held"] if blocked else []
        given: dict[str, object] = {}
        if resource is not None:
            matched.append("resource = :resource")
            given["resource"] = resource
        if event_type is not None:
            matched.append(_MENTIONS_TYPE)
            given["type"] = _like(event_type)
        if event_id is not None:
            also = "".join(f" AND {one}" for one in matched)
            statement = _KEYS.format(table=self.table, narrowed=narrowed + _IS_EVENT + also)
            given["event_id"] = event_id
        elif matched == ["held"] and status is None:
            statement = _HELD_KEYS
        elif matched or status is OutboxStatus.SENT:
            statement = self._matching(matched, status)
        elif status is OutboxStatus.PENDING:
            statement = _PENDING
        else:
            statement = _KEYS.format(table=self.table, narrowed=narrowed)
        rows, end = await self._page(statement, after, limit, **given)
        return Page(_of_type([outbox_row(row) for row in rows], event_type), end)

    def _matching(self, matched: list[str], status: OutboxStatus | None) -> str:
        """Failed rows have an index; what else there is, is asked row by row."""
        if status in (OutboxStatus.FAILED, OutboxStatus.PUBLISHING):
            return self._scan(matched, f" AND status = '{status.value}'")
        of_status = [f"status = '{status.value}'"] if status is not None else []
        return self._scan(of_status + matched)

    async def get(self, event_id: str) -> OutboxRow | None:
        """Return one row whole."""
        row = await self._one(_WHOLE_OUTBOX_ROW[self._dialect], event_id=event_id)
        return outbox_row(row) if row is not None else None


class InboxListing(_Listing):
    """The inbox of all durables, for people."""

    table = "jetstream_inbox_events"
    columns = INBOX_COLUMNS

    async def page(
        self,
        *,
        status: InboxStatus | None = None,
        event_id: str | None = None,
        resource: str | None = None,
        event_type: str | None = None,
        after: int | None = None,
        limit: int = 50,
    ) -> Page[InboxRow]:
        """Return up to `limit` rows older than the one with key `after`."""
        narrowed = f" AND status = '{status.value}'" if status is not None else ""
        given: dict[str, object] = {}
        if event_id is not None:
            statement = _INBOX_EVENT.format(narrowed=narrowed)
            given["event_id"] = event_id
        elif resource is not None or event_type is not None:
            statement, given = self._mentioning(resource, event_type, status)
        elif status is InboxStatus.PROCESSED:
            statement = self._scan(["status = 'processed'"])
        elif status is not None:
            statement = _UNPROCESSED.format(status=status.value)
        else:
            statement = _KEYS.format(table=self.table, narrowed="")
        rows, end = await self._page(statement, after, limit, **given)
        found = _of_type([inbox_row(row) for row in rows], event_type)
        if resource is not None:
            found = [row for row in found if await self._is_of(row, resource)]
        return Page(found, end)

    def _mentioning(
        self, resource: str | None, event_type: str | None, status: InboxStatus | None
    ) -> tuple[str, dict[str, object]]:
        """The table has neither column, so the database picks what mentions them."""
        matched = [f"status = '{status.value}'"] if status is not None else []
        given: dict[str, object] = {}
        if resource is not None:
            matched.append("coalesce(CAST(payload AS TEXT), '') LIKE :mention")
            given["mention"] = _mention(resource)
        if event_type is not None:
            matched.append(f"coalesce({HEAD}, '') LIKE :type ESCAPE '!'")
            given["type"] = _like(event_type)
        return self._scan(matched), given

    async def _is_of(self, row: InboxRow, resource: str) -> bool:
        whole = await self.get(row.id)
        return whole is not None and _resource_of(whole.payload) == resource

    async def get(self, key: int) -> InboxRow | None:
        """Return one row whole."""
        row = await self._one(_WHOLE_INBOX_ROW[self._dialect], id=key)
        return inbox_row(row) if row is not None else None


R = TypeVar("R", OutboxRow, InboxRow)


def _of_type(rows: list[R], event_type: str | None) -> list[R]:
    return [row for row in rows if event_type in (None, row.event_type)]


def _like(text: str) -> str:
    """A pattern for what has `text` in it."""
    plain = re.sub(r"([!%_])", r"!\1", text[:200])
    return f"%{plain}%"


def _mention(resource: str) -> str:
    plain = re.fullmatch(r"[\w-]+", resource.partition(":")[2], re.ASCII)
    return f"%{plain.group()[:200]}%" if plain else "%"


def _resource_of(payload: str | None) -> str | None:
    try:
        envelope = parse((payload or "").encode())
    except (BridgeError, UnicodeError):
        return None
    return f"{envelope.resource_type}:{envelope.resource_id}"
