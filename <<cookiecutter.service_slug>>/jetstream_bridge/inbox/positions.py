"""What the inbox knows of messages by their places, asked without waiting for any writer."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import col

from jetstream_bridge.inbox.tables import InboxEvent, InboxStatus

_MOST = 500  # places in one statement; SQLite takes so many values and not many more

Place = tuple[int, int]


async def statuses(
    engine: AsyncEngine, consumer: str, stream: str, places: Collection[Place]
) -> dict[Place, InboxStatus]:
    """Return what became of the messages at `places` that the inbox knows."""
    reader = engine.execution_options(sqlite_begin="AUTOCOMMIT")
    wanted = list(places)
    found: dict[Place, InboxStatus] = {}
    seq, moment = col(InboxEvent.stream_seq), col(InboxEvent.stored_us)
    async with reader.connect() as connection:
        for start in range(0, len(wanted), _MOST):
            rows = await connection.execute(
                select(seq, moment, col(InboxEvent.status)).where(
                    col(InboxEvent.stream) == stream,
                    tuple_(seq, moment).in_(wanted[start : start + _MOST]),
                    col(InboxEvent.consumer) == consumer,
                )
            )
            found |= {(int(row[0] or 0), int(row[1] or 0)): InboxStatus(row[2]) for row in rows}
    return found
