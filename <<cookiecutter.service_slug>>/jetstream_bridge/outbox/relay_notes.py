"""What a relay may have published and not marked as sent: a note of it, committed beforehand.

A relay that dies, or loses its database, after publishing leaves rows that are in the stream and
look unsent. Inside the stream's duplicate window the stream drops what is published again, and
after it nobody does. So a relay publishes only under a note that tells from which sequence on, and
on which subjects, its messages may be. It renews the note while it knows the fate of all of them,
a few times in a window. A note that ran out, after half a window, is a relay that does not know or
is no more: then no relay publishes before the stream was read from there on (see `doubts`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, String, Text, text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import Field

from jetstream_bridge.core.tables import BridgeTable
from jetstream_bridge.outbox.settlement import RELEASE_PORTION, lock_lanes, many_ids, release


class RelayNote(BridgeTable, table=True):
    """One relay that may have published what is not marked."""

    __tablename__ = "jetstream_relay_notes"

    holder: str = Field(sa_column=Column(String(64), primary_key=True))
    stale_at: datetime
    stream_created: str = Field(sa_column=Column(String(64), nullable=False))
    sequence: int = Field(sa_column=Column(BigInteger, nullable=False))
    subjects: str = Field(sa_column=Column(Text, nullable=False))  # a JSON list


@dataclass(frozen=True, slots=True)
class Note:
    """What stands in one."""

    holder: str
    stream_created: str  # the stream's birth; empty where there was none
    sequence: int  # behind this one are the messages whose rows may not be marked
    subjects: tuple[str, ...]


# Read along with each claim: whether this relay's own note is there, and whether some note ran out.
NOTES = {
    dialect: f"""
        EXISTS (SELECT 1 FROM jetstream_relay_notes WHERE holder = :holder) AS noted,
        EXISTS (SELECT 1 FROM jetstream_relay_notes WHERE stale_at <= {now}) AS in_doubt"""
    for dialect, now in (
        ("postgresql", "clock_timestamp()"),
        ("sqlite", "strftime('%Y-%m-%d %H:%M:%f000', 'now')"),
    )
}

_LATER = {
    "postgresql": "clock_timestamp() + make_interval(secs => :lasts)",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now', '+' || :lasts || ' seconds')",
}
_WRITE = {
    dialect: text(f"""
        INSERT INTO jetstream_relay_notes (holder, stale_at, stream_created, sequence, subjects)
        VALUES (:holder, {later}, :stream_created, :sequence, :subjects)
        ON CONFLICT (holder) DO UPDATE
           SET stale_at = excluded.stale_at, stream_created = excluded.stream_created,
               sequence = excluded.sequence, subjects = excluded.subjects""")
    for dialect, later in _LATER.items()
}
_WIDEN = text("UPDATE jetstream_relay_notes SET subjects = :subjects WHERE holder = :holder")
_DROP = text("DELETE FROM jetstream_relay_notes WHERE holder = :holder")
_STALE = {
    "postgresql": text("""
        SELECT holder, stream_created, sequence, subjects FROM jetstream_relay_notes
         WHERE stale_at <= clock_timestamp() ORDER BY stale_at"""),
    "sqlite": text("""
        SELECT holder, stream_created, sequence, subjects FROM jetstream_relay_notes
         WHERE stale_at <= strftime('%Y-%m-%d %H:%M:%f000', 'now') ORDER BY stale_at"""),
}
_FOUND = {
    "postgresql": text("""
        UPDATE jetstream_outbox_events
           SET status = 'sent', sent_at = clock_timestamp(), updated_at = clock_timestamp(),
               held = false, retry_at = NULL
         WHERE event_id = ANY(CAST(:ids AS varchar[])) AND status <> 'sent'
        RETURNING resource"""),
    "sqlite": text("""
        UPDATE jetstream_outbox_events
           SET status = 'sent', sent_at = strftime('%Y-%m-%d %H:%M:%f000', 'now'),
               updated_at = strftime('%Y-%m-%d %H:%M:%f000', 'now'), held = false, retry_at = NULL
         WHERE event_id IN (SELECT value FROM json_each(:ids)) AND status <> 'sent'
        RETURNING resource"""),
}
_SETTLE = {
    "postgresql": text("""
        UPDATE jetstream_outbox_events
           SET status = 'sent', sent_at = clock_timestamp(), updated_at = clock_timestamp(),
               held = false, retry_at = NULL
         WHERE id = ANY(CAST(:ids AS bigint[])) AND status <> 'sent' RETURNING resource"""),
    "sqlite": text("""
        UPDATE jetstream_outbox_events
           SET status = 'sent', sent_at = strftime('%Y-%m-%d %H:%M:%f000', 'now'),
               updated_at = strftime('%Y-%m-%d %H:%M:%f000', 'now'), held = false, retry_at = NULL
         WHERE id IN (SELECT value FROM json_each(:ids)) AND status <> 'sent'
        RETURNING resource"""),
}
# Whoever else reads the same part of the stream waits here, and then moves it no more.
_MOVE = text("""
    UPDATE jetstream_relay_notes SET sequence = :reached, stream_created = :stream_created
     WHERE holder = :holder AND (sequence < :reached OR stream_created <> :stream_created)""")


_OTHERS = text("SELECT min(sequence) FROM jetstream_relay_notes WHERE holder <> :holder")


class RelayNotes:
    """The notes of all relays of one database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._dialect = engine.dialect.name

    async def write(self, note: Note, *, lasts: float) -> None:
        """Write or renew a note that runs out in `lasts` seconds; it is committed on return."""
        async with self._engine.begin() as connection:
            await connection.execute(
                _WRITE[self._dialect],
                {
                    "holder": note.holder,
                    "stream_created": note.stream_created,
                    "sequence": note.sequence,
                    "subjects": json.dumps(note.subjects),
                    "lasts": lasts,
                },
            )

    async def widen(self, holder: str, subjects: Sequence[str]) -> None:
        """Add subjects to a note that cannot be renewed; the rest stays as it is."""
        async with self._engine.begin() as connection:
            await connection.execute(_WIDEN, {"holder": holder, "subjects": json.dumps(subjects)})

    async def drop(self, holder: str) -> None:
        """Remove a note: the fate of all that its relay published is written."""
        async with self._engine.begin() as connection:
            await connection.execute(_DROP, {"holder": holder})

    async def stale(self) -> list[Note]:
        """Return the notes that ran out."""
        # Looking must not take SQLite's write lock; other databases ignore the option.
        reader = self._engine.execution_options(sqlite_begin="DEFERRED")
        async with reader.connect() as connection:
            return [_note(row) for row in await connection.execute(_STALE[self._dialect])]

    async def others(self, holder: str) -> int | None:
        """Return the lowest sequence in the notes of other relays, None if there are none."""
        reader = self._engine.execution_options(sqlite_begin="DEFERRED")
        async with reader.connect() as connection:
            found = await connection.execute(_OTHERS, {"holder": holder})
            lowest: int | None = found.scalar_one()
        return lowest

    async def found(self, note: Note, event_ids: Sequence[str], *, reached: int) -> int:
        """Mark the events that the stream has, up to its sequence `reached`; say how many rows
        looked unsent."""
        moved = {"holder": note.holder, "stream_created": note.stream_created, "reached": reached}
        async with self._engine.begin() as connection:
            await lock_lanes(connection)
            await connection.execute(_MOVE, moved)
            ids = many_ids(self._dialect, sorted(event_ids))
            rows = await connection.execute(_FOUND[self._dialect], ids)
            resources = list(rows.scalars())
            await release(connection, dict.fromkeys(resources, RELEASE_PORTION))
        return len(resources)

    async def settle(self, sent: Sequence[int]) -> None:
        """Mark rows whose acknowledgement came when the database was away."""
        ids = many_ids(self._dialect, sorted(sent))
        async with self._engine.begin() as connection:
            await lock_lanes(connection)
            resources = (await connection.execute(_SETTLE[self._dialect], ids)).scalars()
            await release(connection, dict.fromkeys(resources, RELEASE_PORTION))


def _note(row: Row[Any]) -> Note:
    return Note(row.holder, row.stream_created, row.sequence, tuple(json.loads(row.subjects)))
