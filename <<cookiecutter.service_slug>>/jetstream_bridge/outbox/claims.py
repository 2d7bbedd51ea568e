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
from sqlmodel.sql.sqltypes import UTCDateTime

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.leases import RENEW_SECONDS, LeaseHolder
from jetstream_bridge.outbox.floors import FLOOR, NEWEST, WRITERS, Floors
from jetstream_bridge.outbox.pauses import PAUSED_SINCE
from jetstream_bridge.outbox.relay_notes import NOTES
from jetstream_bridge.outbox.rows import COLUMNS, PG_HELD, TYPES, OutboxRow
from jetstream_bridge.outbox.settlement import Settlement, write
from jetstream_bridge.outbox.strays import Strays
from jetstream_bridge.outbox.tables import LANES

DUE_AT_ONCE = 100  # rows due for another try in one claim on SQLite
LANES_AT_ONCE = LANES // 2  # the others are left for other relays


class Claim(Protocol):
    """Rows that nobody else may publish while the claim is open."""

    @property
    def rows(self) -> Sequence[OutboxRow]: ...

    @property
    def paused_since(self) -> datetime | None:
        """When an operator paused the relays; such a claim has no rows."""
        ...

    @property
    def noted(self) -> bool:
        """The relay's own note is there (`relay_notes`)."""
        ...

    @property
    def in_doubt(self) -> bool:
        """Some relay's note ran out; such a claim has no rows."""
        ...

    async def settle(self, settlement: Settlement) -> None: ...


class Lanes(Protocol):
    """The relay's side of the outbox table, on one database."""

    def claim(
        self, limit: int, limit_bytes: int, holder: str = ""
    ) -> AbstractAsyncContextManager[Claim]:
        """Take ready rows, so many and of so many bytes; `holder` is the relay's name in its
        note."""
        ...

    async def take_strays(self) -> int:
        """Find ready rows where `claim` does not look, when it is time; say how many."""
        ...

    async def stop(self) -> None: ...


# Lanes that have something to do, beginning at another one each time, so that busy lanes do not
# starve the rest. Locks the lane rows only. Asks each lane for its first row and not whether one
# EXISTS: PostgreSQL answers that by reading the whole backlog into a hash table. The floor is that
# of the lane as it is when it is locked.
_PG_LANES = text(f"""
    SELECT l.lane, l.reopens, {FLOOR} AS floor FROM jetstream_outbox_lanes l
     WHERE (SELECT e.id FROM jetstream_outbox_events e
             WHERE e.lane = l.lane AND e.status = 'pending' AND NOT e.held AND e.id > {FLOOR}
             ORDER BY e.id LIMIT 1) IS NOT NULL
        OR (SELECT e.id FROM jetstream_outbox_events e
             WHERE e.lane = l.lane AND e.retry_at <= now()
             ORDER BY e.retry_at LIMIT 1) IS NOT NULL
     ORDER BY (l.lane + CAST(:first AS integer)) % 16
     LIMIT :lanes
       FOR UPDATE OF l SKIP LOCKED""")

# The bytes of the rows before this one. Only those of rows that are taken are read, however large
# the others are: their size stands in the row.
_BEFORE = """coalesce(sum(f.bytes) OVER (ORDER BY f.part, f.id ROWS BETWEEN UNBOUNDED PRECEDING
                                          AND 1 PRECEDING), 0) AS before"""

# A second statement, so that its snapshot is taken after the locks: it sees what the lanes'
# last holder committed. Rows due for another try come first, they are the oldest.
_PG_ROWS = text(f"""
    WITH taken AS MATERIALIZED (
    SELECT e.* FROM unnest(CAST(:lanes AS smallint[]), CAST(:floors AS bigint[])) AS l(lane, floor)
     CROSS JOIN LATERAL (
       SELECT e.* FROM (
         SELECT f.*, {_BEFORE} FROM (
           (SELECT 0 AS part, d.* FROM jetstream_outbox_events d
             WHERE d.lane = l.lane AND d.retry_at <= now()
             ORDER BY d.retry_at LIMIT :limit)
            UNION ALL
           (SELECT 1 AS part, d.* FROM jetstream_outbox_events d
             WHERE d.lane = l.lane AND d.status = 'pending' AND NOT d.held AND d.id > l.floor
             ORDER BY d.id LIMIT :limit)) f) e
        WHERE e.before < :bytes) e),
    held AS MATERIALIZED ({PG_HELD})
    SELECT {COLUMNS["postgresql"]} FROM taken e LEFT JOIN held h ON h.resource = e.resource
     ORDER BY e.id""").columns(**TYPES["postgresql"])

# What the relay reads is in memory, being fresh. With the default price of a random page the
# planner prefers to walk the primary key past rows of other lanes and rows already sent. Whether
# the relays are paused or in doubt is read along, so that it costs no statement of its own; so is
# what the floors depend on.
_PG_BOUND = {
    wants_writers: text(f"""
    SELECT set_config('idle_in_transaction_session_timeout', :timeout, true),
           set_config('enable_seqscan', 'off', true),
           set_config('random_page_cost', '1', true),
           ({PAUSED_SINCE}) AS since,
           {NOTES["postgresql"]},
           {NEWEST} AS newest, {writers} AS writers""").columns(since=UTCDateTime())
    for wants_writers, writers in ((False, "NULL"), (True, WRITERS))
}

# Rows are taken one after the other as long as there is room: what stands behind a large payload
# in its row is read through all of it, so the sizes of rows that stay must not be asked for.
# One statement, since an idle relay asks every second: it always answers with a row, and with
# one that has no id when nothing is ready or the relays are paused.
_SQLITE_ROWS = text(f"""
    SELECT first.since, first.noted, first.in_doubt, ready.*
      FROM (SELECT ({PAUSED_SINCE}) AS since, {NOTES["sqlite"]}) AS first LEFT JOIN (
      WITH RECURSIVE due AS (
        SELECT f.id, f.bytes, {_BEFORE} FROM (
          SELECT 0 AS part, d.id, d.bytes FROM jetstream_outbox_events d
           WHERE d.lane = 0 AND d.retry_at <= strftime('%Y-%m-%d %H:%M:%f000', 'now')
           ORDER BY d.retry_at LIMIT min(:limit, {DUE_AT_ONCE})) f),
      used AS (SELECT coalesce(sum(bytes), 0) AS total FROM due WHERE before < :bytes),
      next AS (
        SELECT * FROM (
          SELECT d.id, 1 AS number, used.total AS before FROM used, jetstream_outbox_events d
           WHERE d.lane = 0 AND d.status = 'pending' AND NOT d.held ORDER BY d.id LIMIT 1)
        UNION ALL
        SELECT (SELECT d.id FROM jetstream_outbox_events d
                 WHERE d.lane = 0 AND d.status = 'pending' AND NOT d.held AND d.id > n.id
                 ORDER BY d.id LIMIT 1),
               n.number + 1, n.before + e.bytes
          FROM next n JOIN jetstream_outbox_events e ON e.id = n.id
         WHERE n.number < :limit AND n.before + e.bytes < :bytes)
      SELECT {COLUMNS["sqlite"]} FROM (
        SELECT 0 AS part, id FROM due WHERE before < :bytes
         UNION ALL
        SELECT 1, id FROM next WHERE before < :bytes) t
        JOIN jetstream_outbox_events e ON e.id = t.id
       ORDER BY t.part, e.id) AS ready
    ON first.since IS NULL AND NOT first.in_doubt""").columns(
    since=UTCDateTime(), noted=Boolean(), in_doubt=Boolean(), **TYPES["sqlite"]
)


@dataclass(frozen=True, slots=True)
class _PostgresClaim:
    connection: AsyncConnection
    rows: Sequence[OutboxRow]
    paused_since: datetime | None
    noted: bool
    in_doubt: bool

    async def settle(self, settlement: Settlement) -> None:
        await write(self.connection, settlement)


class PostgresLanes:
    """The outbox on PostgreSQL, drained by any number of relays."""

    def __init__(self, engine: AsyncEngine, *, transaction_limit: float) -> None:
        """`transaction_limit`: seconds after which the server ends a claim that went silent."""
        self._engine = engine.execution_options(isolation_level="READ COMMITTED")
        self._timeout = f"{max(1, round(transaction_limit))}s"
        self._first = 0
        self._floors = Floors()
        self._strays = Strays(self._engine, self._floors)

    @asynccontextmanager
    async def claim(self, limit: int, limit_bytes: int, holder: str = "") -> AsyncIterator[Claim]:
        """Yield the oldest ready rows of some free lanes; their locks last until the end."""
        async with self._engine.begin() as connection:
            named = {"timeout": self._timeout, "holder": holder, "known": self._floors.newest}
            statement = _PG_BOUND[self._floors.wants_writers]
            bound = (await connection.execute(statement, named)).one()
            state = (bound.since, bound.noted, bound.in_doubt)
            if bound.since is not None or bound.in_doubt:
                yield _PostgresClaim(connection, [], *state)
                return
            await self._raise_floors(connection, bound)
            lanes = await self._lock_lanes(connection)
            rows = await self._rows(connection, lanes, limit, limit_bytes) if lanes else []
            self._floors.claimed(lanes, rows)
            await self._floors.store(connection, lanes)
            yield _PostgresClaim(connection, rows, *state)

    async def _raise_floors(self, connection: AsyncConnection, bound: Row[Any]) -> None:
        self._floors.note(bound.newest, bound.writers)
        if self._floors.wants_survey:
            await self._floors.survey(connection)

    async def _lock_lanes(self, connection: AsyncConnection) -> list[int]:
        named = {"first": self._first, "lanes": LANES_AT_ONCE, **self._floors.parameters}
        found = (await connection.execute(_PG_LANES, named)).all()
        for row in found:
            self._floors.known(row.lane, row.reopens, row.floor)
        if found:
            self._first = (LANES - found[-1].lane - 1) % LANES
        return [row.lane for row in found]

    async def _rows(
        self, connection: AsyncConnection, lanes: list[int], limit: int, limit_bytes: int
    ) -> Sequence[OutboxRow]:
        share = {
            "limit": max(1, limit // len(lanes)),
            "bytes": max(1, limit_bytes // len(lanes)),
            "floors": self._floors.of(lanes),
        }
        found = await connection.execute(_PG_ROWS, {"lanes": lanes, **share})
        return [OutboxRow._make(row) for row in found.all()]

    async def take_strays(self) -> int:
        """Make due what lies below a floor all the same (see `strays`)."""
        return await self._strays.look()

    async def stop(self) -> None:
        """Nothing to give back: the locks end with their transaction."""


@dataclass(frozen=True, slots=True)
class _SqliteClaim:
    engine: AsyncEngine
    rows: Sequence[OutboxRow]
    paused_since: datetime | None
    noted: bool
    in_doubt: bool

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
        self._lease = LeaseHolder(engine, "outbox-relay", seconds=10.0)
        self._renewed = -RENEW_SECONDS

    @asynccontextmanager
    async def claim(self, limit: int, limit_bytes: int, holder: str = "") -> AsyncIterator[Claim]:
        """Yield the oldest ready rows, or none while another process is the relay."""
        share = {"limit": limit, "bytes": limit_bytes, "holder": holder}
        async with self._reader.connect() as connection:
            found = (await connection.execute(_SQLITE_ROWS, share)).all()
        rows = [OutboxRow._make(row[3:]) for row in found if row.id is not None]
        if rows and not await self._is_ours():
            rows = []
        first = found[0]
        yield _SqliteClaim(self._engine, rows, first.since, first.noted, first.in_doubt)

    async def _is_ours(self) -> bool:
        """Renew early enough that the lease outlasts the publishing of one claim."""
        now = loop_time()
        if now - self._renewed < RENEW_SECONDS:
            return True
        if not await self._lease.acquire():
            return False
        self._renewed = now
        return True

    async def take_strays(self) -> int:
        """There are none: a claim looks at all that is ready."""
        return 0

    async def stop(self) -> None:
        """Let another process take over at once."""
        await self._lease.release()


def lanes_of(engine: AsyncEngine, *, transaction_limit: float) -> Lanes:
    """Return the relay's side of the outbox on `engine`'s database."""
    if engine.dialect.name == "postgresql":
        return PostgresLanes(engine, transaction_limit=transaction_limit)
    return SqliteLanes(engine)
