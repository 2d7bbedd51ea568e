"""Clean-up of the inbox: what was processed long ago goes, what needs somebody stays.

It goes in portions, each in a transaction of its own, so that no handler waits for it. It goes on
where the one before has ended, since an old snapshot keeps what was deleted; once in an hour it
begins at the oldest row, for those that were locked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge.core.clock import loop_time

CLEANUP_PORTION = 1000  # rows deleted in one transaction
FROM_START_EVERY = 3600.0  # seconds

# The planner's numbers may date from when the table was small.
_BY_INDEX = text("""
    SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)
""")

_DELETE_PROCESSED = {
    # With a moment that stands still during the statement, the index tells where the old ones end.
    "postgresql": text("""
        DELETE FROM jetstream_inbox_events WHERE id = ANY(ARRAY(
          SELECT id FROM jetstream_inbox_events
           WHERE status = 'processed'
             AND processed_at >= coalesce(CAST(:since AS timestamptz), '-infinity')
             AND processed_at < statement_timestamp() - make_interval(secs => :age)
           ORDER BY processed_at LIMIT :limit FOR UPDATE SKIP LOCKED))
        RETURNING processed_at"""),
    "sqlite": text("""
        DELETE FROM jetstream_inbox_events WHERE id IN (
          SELECT id FROM jetstream_inbox_events
           WHERE status = 'processed'
             AND processed_at < strftime('%Y-%m-%d %H:%M:%f000', 'now', '-' || :age || ' seconds')
           ORDER BY processed_at LIMIT :limit)
        RETURNING processed_at"""),
}


class InboxMaintenance:
    """The inbox of one database, all its durables together."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._ended_at: Any = None  # the last moment of those that were deleted
        self._from_start = loop_time()

    async def delete_processed(self, *, older_than: float, limit: int = CLEANUP_PORTION) -> int:
        """Delete up to `limit` rows processed more than `older_than` seconds ago; say how many.

        Whoever delivers such an event once more gets it handled once more: keep rows for longer
        than an event can be on its way.
        """
        if loop_time() >= self._from_start:
            self._from_start = loop_time() + FROM_START_EVERY
            self._ended_at = None
        named = {"age": older_than, "limit": limit, "since": self._ended_at}
        async with self._engine.begin() as connection:
            if self._engine.dialect.name == "postgresql":
                await connection.execute(_BY_INDEX)
            deleted = await connection.execute(_DELETE_PROCESSED[self._engine.dialect.name], named)
            moments = list(deleted.scalars())
        self._ended_at = max(moments, default=self._ended_at)
        return len(moments)

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
