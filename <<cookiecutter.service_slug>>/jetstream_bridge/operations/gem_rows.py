"""What the gem's tables know, copied into ours: ids that were processed, and events to be sent.

Portion by portion, each in a transaction of its own, so it may be interrupted and begun again. An
id is copied once, since it is unique in ours. An event that was copied is marked in the gem's table
in the same transaction: ours may have sent and deleted it when it is looked at again.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import RowMapping, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from jetstream_bridge.core.errors import EnvelopeError
from jetstream_bridge.events.received_envelope import is_usable_id, parse
from jetstream_bridge.events.wire_rules import event_id_flaw, subject_flaw
from jetstream_bridge.inbox.tables import InboxEvent, InboxStatus
from jetstream_bridge.outbox.tables import OutboxEvent, OutboxStatus

PORTION = 1000  # rows of one transaction
ADOPTED = "adopted"  # the status of a row of the gem's outbox that was copied
_UNSENT = "sent_at IS NULL AND status IN ('pending', 'publishing', 'failed')"
_PROCESSED = {
    "postgresql": "processed_at > now() AT TIME ZONE 'UTC' - make_interval(secs => :age)",
    "sqlite": "processed_at > datetime('now', '-' || CAST(:age AS INTEGER) || ' seconds')",
}


@dataclass(slots=True)
class Copied:
    """How many rows were copied, or would be."""

    processed: int = 0
    dead_lettered: int = 0  # of those: they have a dead letter, and can be replayed
    unsent: int = 0
    failed: int = 0  # of those: they stay failed, and a person decides
    unusable: list[str] = field(default_factory=list)  # ids of events that cannot be sent

    def add(self, portion: Copied) -> None:
        self.processed += portion.processed
        self.dead_lettered += portion.dead_lettered
        self.unsent += portion.unsent
        self.failed += portion.failed
        self.unusable += portion.unusable


class GemRows:
    """Copies out of the gem's tables; with `dry_run` it only counts."""

    def __init__(self, engine: AsyncEngine, *, dry_run: bool) -> None:
        self._engine = engine
        self._dialect = engine.dialect.name
        self._insert: Any = postgresql.insert if self._dialect == "postgresql" else sqlite.insert
        self._dry_run = dry_run

    async def inbox(
        self,
        table: str,
        consumers: Mapping[str, str],
        *,
        default: str,
        with_letter: Collection[str],
        within: float,
    ) -> AsyncIterator[Copied]:
        """Copy the ids that were processed in the last `within` seconds; older ones would go.

        `consumers` has the durable of each subject, `default` is for others. The gem says
        `processed` of what it dead-lettered too: those of `with_letter` are open to a replay.
        """
        where = f"event_id IS NOT NULL AND {_PROCESSED[self._dialect]}"
        columns = "id, event_id, subject, stream, received_at, processed_at"
        async for connection, found in self._portions(table, columns, where, age=within):
            rows = [
                _inbox_row(row, consumers.get(row["subject"], default), with_letter)
                for row in found
                if is_usable_id(row["event_id"])
            ]
            await self._put(connection, InboxEvent, rows, ["consumer", "event_id"])
            letters = sum(row["status"] is InboxStatus.DEAD_LETTERED for row in rows)
            yield Copied(processed=len(rows), dead_lettered=letters)

    async def outbox(self, table: str) -> AsyncIterator[Copied]:
        """Copy the events that were not sent, in their order; one that failed stays failed."""
        columns = "id, event_id, subject, CAST(payload AS TEXT) AS payload, status, attempts"
        columns += ", last_error, enqueued_at"
        async for connection, found in self._portions(table, columns, _UNSENT):
            rows, ids, copied = [], [], Copied()
            for row in found:
                made = _outbox_row(row)
                if made is None:
                    copied.unusable.append(str(row["event_id"]))
                    continue
                rows.append(made)
                ids.append(row["id"])
            copied.unsent = len(rows)
            copied.failed = sum(row["status"] is OutboxStatus.FAILED for row in rows)
            await self._put(connection, OutboxEvent, rows, ["event_id"])
            await self._mark(connection, table, ids)
            yield copied

    async def _portions(
        self, table: str, columns: str, where: str, **parameters: object
    ) -> AsyncIterator[tuple[AsyncConnection, list[RowMapping]]]:
        """Each portion with the transaction that it is copied in."""
        last = 0
        which = f"FROM {table} WHERE id > :last AND {where} ORDER BY id LIMIT {PORTION}"
        query = text(f"SELECT {columns} {which}")
        while True:
            async with self._engine.begin() as connection:
                result = await connection.execute(query, {"last": last, **parameters})
                found = list(result.mappings())
                if not found:
                    return
                yield connection, found
            last = found[-1]["id"]

    async def _put(
        self,
        connection: AsyncConnection,
        model: type[InboxEvent | OutboxEvent],
        rows: list[dict[str, Any]],
        unique: list[str],
    ) -> None:
        if rows and not self._dry_run:
            statement = self._insert(model).on_conflict_do_nothing(index_elements=unique)
            await connection.execute(statement, rows)

    async def _mark(self, connection: AsyncConnection, table: str, ids: list[int]) -> None:
        if ids and not self._dry_run:
            statement = text(f"UPDATE {table} SET status = :status WHERE id = :id")
            await connection.execute(statement, [{"id": id, "status": ADOPTED} for id in ids])


def _inbox_row(row: RowMapping, consumer: str, with_letter: Collection[str]) -> dict[str, Any]:
    processed_at = _moment(row["processed_at"])
    is_letter = row["event_id"] in with_letter
    return {
        "consumer": consumer,
        "event_id": row["event_id"],
        "subject": row["subject"],
        "stream": row["stream"],
        "status": InboxStatus.DEAD_LETTERED if is_letter else InboxStatus.PROCESSED,
        "received_at": _moment(row["received_at"]) or processed_at,
        "processed_at": None if is_letter else processed_at,
    }


def _outbox_row(row: RowMapping) -> dict[str, Any] | None:
    """The event as a row of ours, None where it could not be sent from there."""
    body = _document(row["payload"])
    if body is None or event_id_flaw(row["event_id"]) or subject_flaw(row["subject"]):
        return None
    failed = row["status"] == "failed"
    return {
        "event_id": row["event_id"],
        "subject": row["subject"],
        "payload": body,
        "status": OutboxStatus.FAILED if failed else OutboxStatus.PENDING,
        "attempts": row["attempts"] if failed else 0,
        "last_error": row["last_error"] if failed else None,
        "enqueued_at": _moment(row["enqueued_at"]) or datetime.now(UTC),
    }


def _document(payload: str) -> str | None:
    """The envelope's text. The gem writes it as JSON inside a JSON string."""
    try:
        value = json.loads(payload)
        body = value if isinstance(value, str) else payload
        parse(body.encode())
    except (ValueError, EnvelopeError):
        return None
    return body


def _moment(value: datetime | str | None) -> datetime | None:
    """Rails writes UTC and does not say so."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if value is None or value.tzinfo is not None:
        return value
    return value.replace(tzinfo=UTC)
