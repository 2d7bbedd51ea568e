"""The relay's claims: rows of the outbox that are ready, and that nobody else may publish.

PostgreSQL: a claim holds the row locks of some lanes until its outcome is written, in one
transaction. The lock is the lease; a crash releases it at once, and a pooler in transaction mode
does no harm. A relay takes half of the lanes at most, so that others find work.

SQLite: one relay works at a time, by a lease; it holds no lock while it publishes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Boolean, text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.types import TypeEngine
from sqlmodel.sql.sqltypes import UTCDateTime

from .clock import loop_time
from .columns import JSONDocument
from .leases import RENEW_SECONDS, LeaseHolder
from .outbox import LANES
from .pauses import PAUSED_SINCE
from .settlement import Settlement, write

LANES_AT_ONCE = LANES // 2  # the others are left for other relays


class Claim(Protocol):
    """Rows that nobody else may publish while the claim is open."""

    @property
    def rows(self) -> Sequence[Row[Any]]: ...

    @property
    def paused_since(self) -> datetime | None:
        """When an operator paused the relays; such a claim has no rows."""
        ...

    async def settle(self, settlement: Settlement) -> None: ...


class Lanes(Protocol):
    """The relay's side of the outbox table, on one database."""

    def claim(self, limit: int) -> AbstractAsyncContextManager[Claim]: ...

    async def stop(self) -> None: ...


# `first_held` is the oldest waiting row of the same resource: before this row, it blocks it;
# after it, it may go on when this row is stored.
_COLUMNS = """e.id, e.event_id, e.subject, CAST(e.payload AS TEXT) AS body, e.headers,
              e.attempts, e.resource, e.held, e.enqueued_at,
              (SELECT min(h.id) FROM jetstream_outbox_events h
                WHERE h.held AND h.resource = e.resource AND h.id <> e.id) AS first_held"""

_TYPES: dict[str, TypeEngine[Any]] = {
    "headers": JSONDocument(),
    "enqueued_at": UTCDateTime(),
    "held": Boolean(),
}

# Lanes that have something to do, beginning at another one each time, so that busy lanes do not
# starve the rest. Locks the lane rows only. Asks each lane for its first row and not whether one
# EXISTS: PostgreSQL answers that by reading the whole backlog into a hash table.
_PG_LANES = text("""
    SELECT l.lane FROM jetstream_outbox_lanes l
     WHERE (SELECT e.id FROM jetstream_outbox_events e
             WHERE e.lane = l.lane AND e.status = 'pending' AND NOT e.held
             ORDER BY e.id LIMIT 1) IS NOT NULL
        OR (SELECT e.id FROM jetstream_outbox_events e
             WHERE e.lane = l.lane AND e.retry_at <= now()
             ORDER BY e.retry_at LIMIT 1) IS NOT NULL
     ORDER BY (l.lane + CAST(:first AS integer)) % 16
     LIMIT :lanes
       FOR UPDATE OF l SKIP LOCKED""")

# A second statement, so that its snapshot is taken after the locks: it sees what the lanes'
# last holder committed. Rows due for another try come first, they are the oldest.
_PG_ROWS = text(f"""
    SELECT e.* FROM unnest(CAST(:lanes AS smallint[])) AS l(lane)
     CROSS JOIN LATERAL (
       (SELECT {_COLUMNS} FROM jetstream_outbox_events e
         WHERE e.lane = l.lane AND e.retry_at <= now()
         ORDER BY e.retry_at LIMIT :limit)
        UNION ALL
       (SELECT {_COLUMNS} FROM jetstream_outbox_events e
         WHERE e.lane = l.lane AND e.status = 'pending' AND NOT e.held
         ORDER BY e.id LIMIT :limit)) e""").columns(**_TYPES)

# What the relay reads is in memory, being fresh. With the default price of a random page the
# planner prefers to walk the primary key past rows of other lanes and rows already sent. Whether
# the relays are paused is read along, so that it costs no statement of its own.
_PG_BOUND = text(f"""
    SELECT set_config('idle_in_transaction_session_timeout', :timeout, true),
           set_config('enable_seqscan', 'off', true),
           set_config('random_page_cost', '1', true),
           ({PAUSED_SINCE}) AS since""").columns(since=UTCDateTime())

# One statement, since an idle relay asks every second: it always answers with a row, and with
# one that has no id when nothing is ready or the relays are paused.
_SQLITE_ROWS = text(f"""
    SELECT pause.since, ready.* FROM (SELECT ({PAUSED_SINCE}) AS since) AS pause LEFT JOIN (
      SELECT * FROM (
        SELECT {_COLUMNS} FROM jetstream_outbox_events e
         WHERE e.lane = 0 AND e.retry_at <= strftime('%Y-%m-%d %H:%M:%f000', 'now')
         ORDER BY e.retry_at LIMIT :limit)
       UNION ALL
      SELECT * FROM (
        SELECT {_COLUMNS} FROM jetstream_outbox_events e
         WHERE e.lane = 0 AND e.status = 'pending' AND NOT e.held
         ORDER BY e.id LIMIT :limit)) AS ready
    ON pause.since IS NULL""").columns(since=UTCDateTime(), **_TYPES)


@dataclass(frozen=True, slots=True)
class _PostgresClaim:
    connection: AsyncConnection
    rows: Sequence[Row[Any]]
    paused_since: datetime | None = None

    async def settle(self, settlement: Settlement) -> None:
        await write(self.connection, settlement)


class PostgresLanes:
    """The outbox on PostgreSQL, drained by any number of relays."""

    def __init__(self, engine: AsyncEngine, *, transaction_limit: float) -> None:
        """`transaction_limit`: seconds after which the server ends a claim that went silent."""
        self._engine = engine.execution_options(isolation_level="READ COMMITTED")
        self._timeout = f"{max(1, round(transaction_limit))}s"
        self._first = 0

    @asynccontextmanager
    async def claim(self, limit: int) -> AsyncIterator[Claim]:
        """Yield the oldest ready rows of some free lanes; their locks last until the end."""
        async with self._engine.begin() as connection:
            bound = (await connection.execute(_PG_BOUND, {"timeout": self._timeout})).one()
            if bound.since is not None:
                yield _PostgresClaim(connection, [], bound.since)
                return
            result = await connection.execute(
                _PG_LANES, {"first": self._first, "lanes": LANES_AT_ONCE}
            )
            lanes = list(result.scalars())
            if not lanes:
                yield _PostgresClaim(connection, [])
                return
            self._first = (LANES - lanes[-1] - 1) % LANES
            per_lane = max(1, limit // len(lanes))
            result = await connection.execute(_PG_ROWS, {"lanes": lanes, "limit": per_lane})
            yield _PostgresClaim(connection, result.all())

    async def stop(self) -> None:
        """Nothing to give back: the locks end with their transaction."""


@dataclass(frozen=True, slots=True)
class _SqliteClaim:
    engine: AsyncEngine
    rows: Sequence[Row[Any]]
    paused_since: datetime | None = None

    async def settle(self, settlement: Settlement) -> None:
        async with self.engine.begin() as connection:
            await write(connection, settlement)


class SqliteLanes:
    """The outbox on SQLite, drained by the one relay that holds the lease."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # Looking for work must not take the write lock; engines that always take it when a
        # transaction begins know this option, others ignore it.
        self._reader = engine.execution_options(sqlite_begin="AUTOCOMMIT")
        self._lease = LeaseHolder(engine, "outbox-relay")
        self._renewed = -RENEW_SECONDS

    @asynccontextmanager
    async def claim(self, limit: int) -> AsyncIterator[Claim]:
        """Yield the oldest ready rows, or none while another process is the relay."""
        async with self._reader.connect() as connection:
            found = (await connection.execute(_SQLITE_ROWS, {"limit": limit})).all()
        rows = [row for row in found if row.id is not None]
        if rows and not await self._is_ours():
            rows = []
        yield _SqliteClaim(self._engine, rows, found[0].since)

    async def _is_ours(self) -> bool:
        """Renew early enough that the lease outlasts the publishing of one claim."""
        now = loop_time()
        if now - self._renewed < RENEW_SECONDS:
            return True
        if not await self._lease.acquire():
            return False
        self._renewed = now
        return True

    async def stop(self) -> None:
        """Let another process take over at once."""
        await self._lease.release()


def lanes_of(engine: AsyncEngine, *, transaction_limit: float) -> Lanes:
    """Return the relay's side of the outbox on `engine`'s database."""
    if engine.dialect.name == "postgresql":
        return PostgresLanes(engine, transaction_limit=transaction_limit)
    return SqliteLanes(engine)
