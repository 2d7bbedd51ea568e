"""Clean-up of the inbox: what was processed long ago goes, what needs somebody stays.

It goes in portions, each in a transaction of its own, so that no handler waits for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

CLEANUP_PORTION = 1000  # rows deleted in one transaction

_DELETE_PROCESSED = {
    "postgresql": text("""
        DELETE FROM jetstream_inbox_events WHERE id IN (
          SELECT id FROM jetstream_inbox_events
           WHERE status = 'processed'
             AND processed_at < clock_timestamp() - make_interval(secs => :age)
           ORDER BY processed_at LIMIT :limit FOR UPDATE SKIP LOCKED)"""),
    "sqlite": text("""
        DELETE FROM jetstream_inbox_events WHERE id IN (
          SELECT id FROM jetstream_inbox_events
           WHERE status = 'processed'
             AND processed_at < strftime('%Y-%m-%d %H:%M:%f000', 'now', '-' || :age || ' seconds')
           ORDER BY processed_at LIMIT :limit)"""),
}


class InboxMaintenance:
    """The inbox of one database, all its durables together."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def delete_processed(self, *, older_than: float, limit: int = CLEANUP_PORTION) -> int:
        """Delete up to `limit` rows processed more than `older_than` seconds ago; say how many.

        Whoever delivers such an event once more gets it handled once more: keep rows for longer
        than an event can be on its way.
        """
        async with self._engine.begin() as connection:
            deleted = await connection.execute(
                _DELETE_PROCESSED[self._engine.dialect.name], {"age": older_than, "limit": limit}
            )
            return deleted.rowcount

    async def purge(self, *, older_than: float) -> int:
        """Delete all rows processed more than `older_than` seconds ago; return how many."""
        return sum([portion async for portion in self.purging(older_than=older_than)])

    async def purging(
        self, *, older_than: float, portion: int = CLEANUP_PORTION
    ) -> AsyncIterator[int]:
        """Do what `purge` does, and tell after each portion how many rows it deleted."""
        deleted = portion
        while deleted == portion:
            deleted = await self.delete_processed(older_than=older_than, limit=portion)
            yield deleted
