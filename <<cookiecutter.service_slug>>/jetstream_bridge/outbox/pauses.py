"""A relay that an operator has paused: said once, in the database, and true for every replica.

The relays read it with each claim, so a claim that has begun is finished and no other follows.
It is a row of its own and not a mark on the lanes: those are locked while a claim is under way,
and pausing must not wait for a relay that is in trouble.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Column, String, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import Field
from sqlmodel.sql.sqltypes import UTCDateTime

from jetstream_bridge.core.columns import utc_now
from jetstream_bridge.core.tables import BridgeTable

OUTBOX = "outbox"


class Pause(BridgeTable, table=True):
    """What is paused: the row is there as long as it lasts."""

    __tablename__ = "jetstream_pauses"

    name: str = Field(sa_column=Column(String(64), primary_key=True))
    since: datetime = Field(default=None, sa_column_kwargs={"server_default": utc_now()})


PAUSED_SINCE = f"SELECT since FROM jetstream_pauses WHERE name = '{OUTBOX}'"

_SINCE = text(PAUSED_SINCE).columns(since=UTCDateTime())
_PAUSE = text(f"""
    INSERT INTO jetstream_pauses (name) VALUES ('{OUTBOX}') ON CONFLICT (name) DO NOTHING""")
_RESUME = text(f"DELETE FROM jetstream_pauses WHERE name = '{OUTBOX}'")


class OutboxPause:
    """Stops and restarts relaying, on every replica."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def since(self) -> datetime | None:
        """Return since when relaying is paused, None when it is not."""
        # Looking must not take SQLite's write lock; other databases ignore the option.
        reader = self._engine.execution_options(sqlite_begin="DEFERRED")
        async with reader.connect() as connection:
            since: datetime | None = (await connection.execute(_SINCE)).scalar()
            return since

    async def pause(self) -> bool:
        """Stop relaying; False when it was paused already."""
        async with self._engine.begin() as connection:
            return (await connection.execute(_PAUSE)).rowcount > 0

    async def resume(self) -> bool:
        """Relay again; False when it was not paused."""
        async with self._engine.begin() as connection:
            return (await connection.execute(_RESUME)).rowcount > 0
