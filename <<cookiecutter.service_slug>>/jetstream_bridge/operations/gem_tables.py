"""The two tables of the gem in a database that this service takes over.

They have the names of ours and other columns. They are renamed and kept: what is in them is copied,
and nothing of it is deleted.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge.core.database_faults import is_lock_timeout
from jetstream_bridge.core.errors import NotPossibleError

OUTBOX, INBOX = "gem_outbox_events", "gem_inbox_events"  # once they are renamed
_LANES = "jetstream_outbox_lanes"  # of ours only; made by the first migration


@dataclass(frozen=True, slots=True)
class _Table:
    name: str
    renamed: str
    ours: str  # a column that the gem's has not
    columns: frozenset[str]  # that the gem's has


_TABLES = (
    _Table(
        "jetstream_outbox_events",
        OUTBOX,
        "lane",
        frozenset(
            {"id", "event_id", "subject", "payload", "status", "attempts", "last_error"}
            | {"enqueued_at", "sent_at"}
        ),
    ),
    _Table(
        "jetstream_inbox_events",
        INBOX,
        "consumer",
        frozenset({"id", "event_id", "subject", "stream", "received_at", "processed_at"}),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GemTables:
    """Which tables there are, and under which names."""

    to_rename: dict[str, str]  # the gem's that stand in our way, and their new names
    outbox: str | None  # where the gem's is now; None: there is none
    inbox: str | None
    migrated: bool  # ours are there
    stamped: bool  # Alembic was told that they are, and they are not

    @property
    def next_step(self) -> str | None:
        """What has to happen before rows can be copied, the renaming excepted."""
        if self.migrated:
            return None
        stamp = "alembic stamp base && " if self.stamped else ""
        return f"{stamp}alembic upgrade heads"


async def find_gem_tables(engine: AsyncEngine) -> GemTables:
    """Look which tables there are; raise `NotPossibleError` for what is not the gem's nor ours."""
    async with engine.connect() as connection:
        return await connection.run_sync(_find)


async def rename_gem_tables(engine: AsyncEngine, tables: GemTables) -> None:
    """Give the gem's tables their new names, both or none. Waits for nobody who uses them."""
    try:
        async with engine.begin() as connection:
            for name, renamed in tables.to_rename.items():
                await connection.execute(text(f"ALTER TABLE {name} RENAME TO {renamed}"))
    except DBAPIError as error:
        if not is_lock_timeout(error):
            raise
        names = " and ".join(tables.to_rename)
        raise NotPossibleError(
            f"somebody uses the gem's tables {names}; stop the gem and try again"
        ) from error


def _find(connection: Connection) -> GemTables:
    present = {
        name: {column["name"] for column in inspect(connection).get_columns(name)}
        for name in inspect(connection).get_table_names()
        if name in {_LANES, "alembic_version", *(n for t in _TABLES for n in (t.name, t.renamed))}
    }
    to_rename: dict[str, str] = {}
    places: dict[str, str | None] = {}
    for table in _TABLES:
        place = _place(table, present)
        places[table.renamed] = place
        if place == table.name:
            to_rename[table.name] = table.renamed
    migrated = _LANES in present and not to_rename
    return GemTables(
        to_rename=to_rename,
        outbox=places[OUTBOX],
        inbox=places[INBOX],
        migrated=migrated,
        stamped=not migrated and _has_versions(connection, present),
    )


def _place(table: _Table, present: dict[str, set[str]]) -> str | None:
    """Where the gem's table is."""
    has_gems_name = table.ours not in present.get(table.name, {table.ours})
    if has_gems_name and table.renamed in present:
        raise NotPossibleError(
            f"{table.name} is the gem's and {table.renamed} is there too; remove the one that is "
            "not wanted"
        )
    place = table.name if has_gems_name else table.renamed
    if place not in present:
        return None
    if missing := sorted(table.columns - present[place]):
        raise NotPossibleError(
            f"{place} is not as version 4.2 of the gem makes it: it lacks {', '.join(missing)}"
        )
    return place


def _has_versions(connection: Connection, present: dict[str, set[str]]) -> bool:
    if "alembic_version" not in present:
        return False
    return connection.execute(text("SELECT 1 FROM alembic_version")).first() is not None
