"""What people and clean-up do to the outbox beside the relay: retry, discard, delete.

Nothing here makes the relay send two events of one resource in the wrong order: a row that is
given another chance goes before the later ones that have not been sent yet. (Those that went out
while it was failed are in the stream already, so it comes after them.)

What concerns many rows goes in portions, each in a transaction of its own, so that neither the
relay nor a request waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import StrEnum

from sqlalchemy import TextClause, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from jetstream_bridge.core.database_faults import is_lock_timeout
from jetstream_bridge.outbox.settlement import LANE_WAIT, lock_lanes, many_ids, release
from jetstream_bridge.outbox.tables import LANES

logger = logging.getLogger(__name__)

PORTION = 1000  # rows that one transaction retries
# Of a resource without a head. Few: it may be a hot one, whose followers come back by themselves.
ORPHANS_PORTION = 64
CLEANUP_PORTION = 2000  # rows that one transaction looks at for deletion


@dataclass(frozen=True, slots=True)
class FailedFilter:
    """Which failed rows are meant; what is None does not narrow it."""

    event_type: str | None = None  # dotted or not, as it was published
    resource_type: str | None = None
    subject: str | None = None


ALL_FAILED = FailedFilter()


class RetryOutcome(StrEnum):
    """What `retry` found."""

    RETRIED = "retried"  # the relay takes it with its next claim
    PENDING = "pending"  # it is on its way already, or behind an earlier event of its resource
    SENT = "sent"
    UNKNOWN = "unknown"


class DiscardOutcome(StrEnum):
    """What `discard` found."""

    DISCARDED = "discarded"
    SENT = "sent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Cleaned:
    """One portion of a clean-up. `go_on_after` is 0 when nothing more is old enough; `last` is the
    highest id that was deleted."""

    deleted: int
    go_on_after: int
    last: int = field(default=0, compare=False)


_NOW = {
    "postgresql": "clock_timestamp()",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now')",
}

# A failed row starts anew, with all its attempts; its last error stays until it is sent. It is due
# at once, like a row that waits for its next try, and not ready: those that follow it are held, and
# what is due is found wherever the relays look from (see `floors`).
_RETRY_ONE = {
    dialect: text(f"""
        UPDATE jetstream_outbox_events
           SET attempts = CASE WHEN status = 'pending' THEN attempts ELSE 0 END,
               retry_at = {now}, held = true, status = 'pending', updated_at = {now}
         WHERE event_id = :event_id
           AND (status IN ('failed', 'publishing') OR retry_at IS NOT NULL)
        RETURNING id""")
    for dialect, now in _NOW.items()
}
_STATUS = text("SELECT status FROM jetstream_outbox_events WHERE event_id = :event_id")

_JSON_TEXT = {
    "postgresql": "(payload ->> '{0}')",
    "sqlite": "json_extract(payload, '$.{0}')",
}
# Oldest first, so that events of one resource keep their order from portion to portion.
_RETRY_FAILED = """
    UPDATE jetstream_outbox_events
       SET status = 'pending', attempts = 0, held = true, retry_at = {now}, updated_at = {now}
     WHERE id IN (SELECT id FROM jetstream_outbox_events
                   WHERE status = 'failed' AND id > :after {narrowed}
                   ORDER BY id LIMIT :portion {lock})
    RETURNING id"""

_LANE = text("SELECT lane FROM jetstream_outbox_events WHERE event_id = :event_id")
_DISCARD = text("""
    DELETE FROM jetstream_outbox_events
     WHERE event_id = :event_id AND status <> 'sent' RETURNING resource""")

# The oldest rows come first by their key, so no index on `sent_at` is needed, which every sent
# row would have to pay for. Behind a portion of which no row was written long enough ago there is
# none that was sent long enough ago; what was sent late, failed or waits stops nothing.
_BEFORE = {
    "postgresql": "clock_timestamp() - make_interval(secs => :age)",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now', '-' || :age || ' seconds')",
}
_CLEANUP_PORTION = {
    dialect: text(f"""
        SELECT id, status = 'sent' AND sent_at < {before} AS done, enqueued_at < {before} AS old
          FROM jetstream_outbox_events WHERE id > :after ORDER BY id LIMIT :limit""")
    for dialect, before in _BEFORE.items()
}
# The planner's numbers may date from when the table was small.
_PG_BY_INDEX = text("""
    SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)
""")
_DELETE = {
    "postgresql": text("""
        DELETE FROM jetstream_outbox_events
         WHERE id = ANY(CAST(:ids AS bigint[])) AND status = 'sent'"""),
    "sqlite": text("""
        DELETE FROM jetstream_outbox_events
         WHERE id IN (SELECT value FROM json_each(:ids)) AND status = 'sent'"""),
}

_ALL_LANES = text("SELECT lane FROM jetstream_outbox_lanes")
_ADD_LANE = text("""
    INSERT INTO jetstream_outbox_lanes (lane) VALUES (:lane) ON CONFLICT (lane) DO NOTHING""")

# Followers whose head is gone without the relay's doing: somebody deleted the row.
_ORPHANS = text("""
    SELECT h.resource, h.lane
      FROM (SELECT DISTINCT resource, lane FROM jetstream_outbox_events
             WHERE held AND resource <> '') h
     WHERE NOT EXISTS (SELECT 1 FROM jetstream_outbox_events p
                        WHERE p.held AND p.resource = h.resource AND p.retry_at IS NOT NULL)
     LIMIT 100""")


_PG_FREE_LANES = text("""
    SELECT lane FROM jetstream_outbox_lanes
     WHERE lane = ANY(CAST(:lanes AS smallint[])) ORDER BY lane FOR UPDATE SKIP LOCKED""")


class OutboxMaintenance:
    """The outbox of one database, for operators and for the relay's clean-up.

    Every method has transactions of its own and leaves no lock behind. A database that does not
    answer raises SQLAlchemy's errors.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._dialect = engine.dialect.name

    async def retry(self, event_id: str) -> RetryOutcome:
        """Let the relay try one event at once, whether it failed or waits for its next try."""
        async with self._engine.begin() as connection:
            named = {"event_id": event_id}
            retried = await connection.execute(_RETRY_ONE[self._dialect], named)
            if retried.first() is not None:
                return RetryOutcome.RETRIED
            status = (await connection.execute(_STATUS, named)).scalar()
        if status is None:
            return RetryOutcome.UNKNOWN
        return RetryOutcome.SENT if status == "sent" else RetryOutcome.PENDING

    async def retry_failed(self, which: FailedFilter = ALL_FAILED) -> int:
        """Let the relay try every failed event again that `which` means; return how many."""
        return sum([portion async for portion in self.retrying_failed(which)])

    async def retrying_failed(
        self, which: FailedFilter = ALL_FAILED, *, portion: int = PORTION
    ) -> AsyncIterator[int]:
        """Do what `retry_failed` does, and tell after each portion how many rows it had."""
        statement = self._retry_failed_statement(which)
        parameters = {
            "type": which.event_type,
            "resource_type": which.resource_type,
            "subject": which.subject,
        }
        named = {name: value for name, value in parameters.items() if value is not None}
        ids = [0]
        while ids:
            async with self._engine.begin() as connection:
                retried = await connection.execute(
                    statement, {**named, "after": max(ids), "portion": portion}
                )
                ids = list(retried.scalars())
            if ids:
                yield len(ids)

    def _retry_failed_statement(self, which: FailedFilter) -> TextClause:
        event_type, resource_type = (
            _JSON_TEXT[self._dialect].format(name) for name in ("event_type", "resource_type")
        )
        narrowed = ""
        if which.event_type is not None:
            dotted = f"{resource_type} || '.' || {event_type}"
            narrowed += f" AND ({event_type} = :type OR {dotted} = :type)"
        if which.resource_type is not None:
            narrowed += f" AND {resource_type} = :resource_type"
        if which.subject is not None:
            narrowed += " AND subject = :subject"
        lock = "FOR UPDATE" if self._dialect == "postgresql" else ""
        return text(_RETRY_FAILED.format(now=_NOW[self._dialect], narrowed=narrowed, lock=lock))

    async def discard(self, event_id: str) -> DiscardOutcome:
        """Delete one event that is not sent; what waited behind it may go on.

        On PostgreSQL this waits for a relay that has the event in hand, so a discarded event is
        never sent; raises `TimeoutError` when that takes longer than 10 s. On SQLite an event
        that is being sent at this moment may still arrive.
        """
        async with self._engine.begin() as connection:
            lane = (await connection.execute(_LANE, {"event_id": event_id})).scalar()
            if lane is None:
                return DiscardOutcome.UNKNOWN
            await _lock(connection, lane)
            gone = (await connection.execute(_DISCARD, {"event_id": event_id})).first()
            if gone is None:
                return DiscardOutcome.SENT
            await release(connection, {gone.resource: PORTION})
        return DiscardOutcome.DISCARDED

    async def delete_sent(
        self, *, older_than: float, after: int = 0, limit: int = CLEANUP_PORTION
    ) -> Cleaned:
        """Delete the rows sent more than `older_than` seconds ago, among the `limit` next after
        id `after`."""
        async with self._engine.begin() as connection:
            if self._dialect == "postgresql":
                await connection.execute(_PG_BY_INDEX)
            portion = await connection.execute(
                _CLEANUP_PORTION[self._dialect],
                {"age": older_than, "after": after, "limit": limit},
            )
            rows = portion.all()
            ids = [row.id for row in rows if row.done]
            if ids:
                await connection.execute(_DELETE[self._dialect], many_ids(self._dialect, ids))
        finished = len(rows) < limit or not any(row.done or row.old for row in rows)
        go_on_after = 0 if finished else int(rows[-1].id)
        return Cleaned(len(ids), go_on_after, max(ids, default=0))

    async def purge(self, *, older_than: float) -> int:
        """Delete all rows sent more than `older_than` seconds ago; return how many."""
        return sum([portion async for portion in self.purging(older_than=older_than)])

    async def purging(
        self, *, older_than: float, portion: int = CLEANUP_PORTION
    ) -> AsyncIterator[int]:
        """Do what `purge` does, and tell after each portion how many rows it deleted."""
        cleaned = Cleaned(0, 0)
        while True:
            cleaned = await self.delete_sent(
                older_than=older_than, after=cleaned.go_on_after, limit=portion
            )
            yield cleaned.deleted
            if not cleaned.go_on_after:
                return

    async def restore_lanes(self) -> int:
        """Put back the lanes that somebody deleted, without which nothing is sent; say how many."""
        # Looking must not take SQLite's write lock; other databases ignore the option.
        reader = self._engine.execution_options(sqlite_begin="DEFERRED")
        async with reader.connect() as connection:
            found = set((await connection.execute(_ALL_LANES)).scalars())
        missing = sorted(set(range(LANES)) - found)
        if missing:
            logger.error("lanes %s of the outbox were missing, and are put back", missing)
            async with self._engine.begin() as connection:
                await connection.execute(_ADD_LANE, [{"lane": lane} for lane in missing])
        return len(missing)

    async def release_orphans(self) -> int:
        """Let followers go on whose head was deleted by somebody; return how many resources."""
        async with self._engine.begin() as connection:
            orphans = (await connection.execute(_ORPHANS)).all()
            free = await self._free_lanes(connection, {row.lane for row in orphans})
            resources = {row.resource for row in orphans if row.lane in free}
            await release(connection, dict.fromkeys(resources, ORPHANS_PORTION))
            return len(resources)

    async def _free_lanes(self, connection: AsyncConnection, lanes: set[int]) -> set[int]:
        """Lock those of `lanes` that no relay has; the others get their turn another time."""
        if self._dialect != "postgresql" or not lanes:
            return lanes
        return set((await connection.execute(_PG_FREE_LANES, {"lanes": sorted(lanes)})).scalars())


async def _lock(connection: AsyncConnection, lane: int) -> None:
    """Wait for the relay that has `lane`; it gets no other claim on it until the commit."""
    try:
        await lock_lanes(connection, [lane], limit=LANE_WAIT)
    except DBAPIError as error:
        if not is_lock_timeout(error):
            raise
        raise TimeoutError(
            f"a relay has held lane {lane} for {LANE_WAIT:g} s, and may be sending the event; "
            "try again, or look at /readyz for what keeps the relay"
        ) from None
