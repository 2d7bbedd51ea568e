"""How far down a relay on PostgreSQL must look for ready rows: each lane has a floor.

Index entries of sent rows stay until a vacuum may remove them. While an older snapshot is open, be
it a dump, a report or a replica's feedback, it may not, and every look would walk over all that
was sent since. So a look begins at a floor: no row at or below it is ready, or will ever become
so unseen. That is exact, and does not depend on how long anything takes:

- An id is drawn under the INSERT's lock on the table. When every transaction that held one as some
  id was already visible has ended, nobody can still commit that id or a lower one.
- Followers of a waiting row come back when it is done. That happens under their lane's lock, and
  is counted in the lane (`reopens`, `reopened`): whoever locks the lane next lowers its floor.
  Failed events that are retried are made due (`retry_at`), which has no floor.

A floor is one process's knowledge and is in memory. Now and then it is stored in the lane, for
relays that begin and for those who count or list: each time is a version of the lane's row, which
an old snapshot keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.outbox.rows import OutboxRow
from jetstream_bridge.outbox.tables import LANES

LAG = 128  # ids after which it is asked again which ones are final
SURVEY_LAG = 1024  # ids between two surveys
STORE_BUSY, STORE_IDLE = 8192, 1024  # ids between two times that a floor is stored
EVERY = 1.0  # seconds, where fewer ids were drawn
_PREPARED = "-1/"  # how the name of a prepared transaction begins, which it had not before

# The lane's floor, as of what happened in the lane since this process has locked it last. Who
# missed one lowering knows how far; who missed more begins at the one that is stored.
FLOOR = """
    greatest(l.floor, CASE l.reopens - (CAST(:seen AS bigint[]))[l.lane + 1]
      WHEN 0 THEN (CAST(:floors AS bigint[]))[l.lane + 1]
      WHEN 1 THEN least((CAST(:floors AS bigint[]))[l.lane + 1], l.reopened - 1) END)"""

# Not from the end of the index alone: a table that was emptied beside an old snapshot is no end.
NEWEST = """(SELECT max(n.id) FROM jetstream_outbox_events n
              WHERE n.id >= greatest(CAST(:known AS bigint),
                                     (SELECT max(k.floor) FROM jetstream_outbox_lanes k)))"""
# The statement's snapshot, which has `newest`, is older than its look at the locks.
WRITERS = """ARRAY(SELECT w.virtualtransaction FROM pg_catalog.pg_locks w
               WHERE w.locktype = 'relation' AND w.mode = 'RowExclusiveLock' AND w.granted
                 AND w.relation = CAST('jetstream_outbox_events' AS regclass)
                 AND w.database = (SELECT d.oid FROM pg_catalog.pg_database d
                                    WHERE d.datname = current_database())
                 AND w.pid IS DISTINCT FROM pg_backend_pid())"""

_SURVEY = text(f"""
    SELECT l.lane, l.reopens, f.floor,
           (SELECT e.id FROM jetstream_outbox_events e
             WHERE e.lane = l.lane AND e.status = 'pending' AND NOT e.held AND e.id > f.floor
             ORDER BY e.id LIMIT 1) AS first
      FROM jetstream_outbox_lanes l CROSS JOIN LATERAL (SELECT {FLOOR} AS floor) f""")

_STORE = text("""
    UPDATE jetstream_outbox_lanes l SET floor = x.floor
      FROM unnest(CAST(:lanes AS smallint[]), CAST(:floors AS bigint[]), CAST(:seen AS bigint[]))
             AS x(lane, floor, seen)
     WHERE l.lane = x.lane AND l.reopens = x.seen AND x.floor - l.floor >= :least
       AND l.lane = ANY(ARRAY(SELECT f.lane FROM jetstream_outbox_lanes f
                               WHERE f.lane = ANY(CAST(:lanes AS smallint[]))
                               ORDER BY f.lane FOR UPDATE SKIP LOCKED))""")


@dataclass(frozen=True, slots=True)
class _Mark:
    """Ids up to `newest` were drawn; of those who may still commit one, these were at work."""

    newest: int
    writers: frozenset[str]


class Floors:
    """What one relay knows of each lane. Not for two claims at once."""

    def __init__(self) -> None:
        self._floors = [0] * LANES
        self._seen = [-1] * LANES  # the lane's `reopens` that the floor is true for
        self._stored = [0] * LANES
        self.newest = 0  # the highest id that was seen
        self._final = 0  # nobody can commit this id any more, nor a lower one
        self._mark: _Mark | None = None
        self._asked_at = -inf  # for writers
        self._surveyed_at = inf
        self._surveyed = 0  # what was final then
        self._passed = 0  # rows that were claimed since

    @property
    def parameters(self) -> dict[str, list[int]]:
        """What `FLOOR` asks for."""
        return {"floors": self._floors, "seen": self._seen}

    @property
    def highest(self) -> int:
        """Return the highest floor."""
        return max(self._floors)

    def of(self, lanes: Iterable[int]) -> list[int]:
        """Return the floors of `lanes`."""
        return [self._floors[lane] for lane in lanes]

    def known(self, lane: int, reopens: int, floor: int) -> None:
        """The lane is locked, and this is what `FLOOR` said of it."""
        self._seen[lane], self._floors[lane] = reopens, floor

    @property
    def wants_writers(self) -> bool:
        """Whether the next claim should bring `WRITERS` along."""
        behind = self.newest - self._final
        return behind >= LAG or loop_time() - self._asked_at >= EVERY

    def note(self, newest: int | None, writers: Iterable[str] | None) -> None:
        """Take what a claim brought along: the highest visible id, and then who was at work."""
        self.newest = max(self.newest, newest or 0)
        if writers is not None:
            self._asked_at = loop_time()
            self._note_writers(frozenset(writers))

    def _note_writers(self, writers: frozenset[str]) -> None:
        if any(writer.startswith(_PREPARED) for writer in writers):
            return  # it may be one of those that were at work, under another name
        if not writers:
            self._final, self._mark = self.newest, None
        elif self._mark is None or not self._mark.writers & writers:
            self._final = self._mark.newest if self._mark is not None else self._final
            self._mark = _Mark(self.newest, writers)

    def claimed(self, lanes: Sequence[int], rows: Sequence[OutboxRow]) -> None:
        """These rows were found in locked lanes, with a snapshot of after the claim's `note`.

        A lane's first ready row is among them, unless rows that were due left no room for it.
        """
        first: dict[int, int] = {}
        for row in rows:  # the oldest one comes first
            if not row.part:
                first[row.lane] = 0
            elif row.lane not in first:
                first[row.lane] = row.id
        for lane in lanes:
            below = min(self._final, first.get(lane, inf) - 1)
            self._floors[lane] = max(self._floors[lane], int(below))
        # When there are no more, the floors of the other lanes need not wait.
        self._passed += len(rows) if rows else self._passed and SURVEY_LAG

    @property
    def wants_survey(self) -> bool:
        """Whether the floors may rise far enough to be worth a statement."""
        if self._surveyed_at == inf:
            self._surveyed_at, self._surveyed = loop_time(), self._final
        if min(self._floors) >= self._final:
            return False
        moved = max(self._passed, self._final - self._surveyed)
        return moved >= SURVEY_LAG or loop_time() - self._surveyed_at >= EVERY

    async def survey(self, connection: AsyncConnection) -> None:
        """Raise each lane's floor below its first ready row, with a snapshot taken now."""
        for row in await connection.execute(_SURVEY, self.parameters):
            below = self._final if row.first is None else min(self._final, row.first - 1)
            self.known(row.lane, row.reopens, max(row.floor, below))
        self._surveyed_at, self._surveyed, self._passed = loop_time(), self._final, 0

    async def store(self, connection: AsyncConnection, locked: Sequence[int]) -> None:
        """Store the floors that have risen enough: of the lanes that a claim has locked, or of all
        that are free when it found none."""
        least = STORE_BUSY if locked else STORE_IDLE
        risen = [
            lane
            for lane in locked or range(LANES)
            if self._floors[lane] - self._stored[lane] >= least
        ]
        if risen:
            seen = [self._seen[lane] for lane in risen]
            named = {"lanes": risen, "floors": self.of(risen), "seen": seen, "least": least}
            await connection.execute(_STORE, named)
            for lane in risen:
                self._stored[lane] = self._floors[lane]
