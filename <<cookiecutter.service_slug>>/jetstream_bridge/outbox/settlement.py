"""What became of the rows of a claim, and the statements that write it down.

A row that must be tried again later leaves the relay's index (`held`, with `retry_at`), and so
does each of its followers when it is first met. They come back in portions, so that neither
reading nor releasing depends on how many wait. Of one resource only the oldest waiting row has a
`retry_at`: the others follow it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from jetstream_bridge.core.columns import storable
from jetstream_bridge.core.tries import APPENDED, entry
from jetstream_bridge.outbox.rows import OutboxRow
from jetstream_bridge.outbox.tables import LANES

RELEASE_PORTION = 1000  # followers of a resource that come back at once, at most
LANE_WAIT = 10.0  # seconds for a relay to finish its claim; it takes some tens of milliseconds
_MAX_ERROR = 2000  # characters kept in `last_error`


@dataclass(frozen=True, slots=True)
class Retry:
    """A row to be tried again `delay` seconds from now."""

    id: int
    attempts: int
    error: str
    delay: float


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that has used up its attempts."""

    id: int
    attempts: int
    error: str


@dataclass(slots=True)
class Settlement:
    """What became of the rows of one claim. Rows that are not named stay as they were."""

    sent: list[int] = field(default_factory=list)
    retries: list[Retry] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    held: list[int] = field(default_factory=list)  # followers of a row that is waiting
    # Resources whose followers may go on, and how many of them come back at once.
    released: dict[str, int] = field(default_factory=dict)
    # Of these, those that had a ready row before the ones that come back: no relay looks for ready
    # rows from farther up than that (see `floors`).
    in_sight: set[str] = field(default_factory=set)

    def release(self, head: OutboxRow, portion: int) -> None:
        """`head` is done: up to `portion` of those that follow it may go on."""
        self.released[head.resource] = portion
        if not head.held:
            self.in_sight.add(head.resource)


_SENT = {
    "postgresql": text("""
        UPDATE jetstream_outbox_events
           SET status = 'sent', sent_at = clock_timestamp(), updated_at = clock_timestamp(),
               held = false, retry_at = NULL
         WHERE id = ANY(CAST(:ids AS bigint[]))"""),
    "sqlite": text("""
        UPDATE jetstream_outbox_events
           SET status = 'sent', sent_at = strftime('%Y-%m-%d %H:%M:%f000', 'now'),
               updated_at = strftime('%Y-%m-%d %H:%M:%f000', 'now'), held = false, retry_at = NULL
         WHERE id IN (SELECT value FROM json_each(:ids))"""),
}
_RETRY = {
    "postgresql": text(f"""
        UPDATE jetstream_outbox_events
           SET attempts = :attempts, last_error = :error, held = true,
               tries = {APPENDED["postgresql"]},
               retry_at = clock_timestamp() + make_interval(secs => :delay),
               updated_at = clock_timestamp()
         WHERE id = :id"""),
    "sqlite": text(f"""
        UPDATE jetstream_outbox_events
           SET attempts = :attempts, last_error = :error, held = true, tries = {APPENDED["sqlite"]},
               retry_at = strftime('%Y-%m-%d %H:%M:%f000', 'now', '+' || :delay || ' seconds'),
               updated_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')
         WHERE id = :id"""),
}
_FAIL = {
    dialect: text(f"""
    UPDATE jetstream_outbox_events
       SET status = 'failed', attempts = :attempts, last_error = :error, tries = {appended},
           held = false, retry_at = NULL, updated_at = CURRENT_TIMESTAMP
     WHERE id = :id""")
    for dialect, appended in APPENDED.items()
}
_HOLD = {
    "postgresql": text("""
        UPDATE jetstream_outbox_events SET held = true, retry_at = NULL
         WHERE id = ANY(CAST(:ids AS bigint[]))"""),
    "sqlite": text("""
        UPDATE jetstream_outbox_events SET held = true, retry_at = NULL
         WHERE id IN (SELECT value FROM json_each(:ids))"""),
}
_FOLLOWERS = """
    SELECT id FROM jetstream_outbox_events
     WHERE held AND resource = {0}
       AND NOT EXISTS (SELECT 1 FROM jetstream_outbox_events p
                        WHERE p.held AND p.resource = {0} AND p.retry_at IS NOT NULL)
     ORDER BY id LIMIT {1}"""
_RELEASE = text(f"""
    UPDATE jetstream_outbox_events SET held = false
     WHERE id IN ({_FOLLOWERS.format(":resource", ":portion")})""")
# A lane is marked only where rows come back that relays may not look for any more: each mark is a
# version of the lane's row, which an old snapshot keeps.
_PG_RELEASE = text(f"""
    WITH released AS (
      UPDATE jetstream_outbox_events SET held = false, retry_at = NULL
       WHERE id = ANY(ARRAY(
         SELECT f.id FROM unnest(CAST(:resources AS varchar[]), CAST(:portions AS integer[]))
                            AS r(resource, portion)
           CROSS JOIN LATERAL ({_FOLLOWERS.format("r.resource", "r.portion")}) f))
      RETURNING id, lane, resource)
    UPDATE jetstream_outbox_lanes l
       SET reopens = l.reopens + 1, reopened = b.lowest, floor = least(l.floor, b.lowest - 1)
      FROM (SELECT lane, min(id) AS lowest FROM released
             WHERE resource = ANY(CAST(:reopened AS varchar[])) GROUP BY lane) b
     WHERE l.lane = b.lane""")
_PG_LANE_WAIT = text("SELECT set_config('lock_timeout', :limit, true)")
_PG_LOCK_LANES = text("""
    SELECT lane FROM jetstream_outbox_lanes
     WHERE lane = ANY(CAST(:lanes AS smallint[])) ORDER BY lane FOR UPDATE""")


def many_ids(dialect: str, ids: list[int] | list[str]) -> dict[str, object]:
    """One parameter for any number of ids: an array, or JSON where there are no arrays."""
    return {"ids": ids if dialect == "postgresql" else json.dumps(ids)}


async def write(connection: AsyncConnection, settlement: Settlement) -> None:
    """Write `settlement` in the caller's transaction, each kind of outcome with one statement."""
    dialect = connection.dialect.name
    if settlement.sent:
        await connection.execute(_SENT[dialect], many_ids(dialect, settlement.sent))
    if settlement.retries:
        await connection.execute(
            _RETRY[dialect],
            [_failed(row) | {"delay": row.delay} for row in settlement.retries],
        )
    if settlement.failures:
        await connection.execute(_FAIL[dialect], [_failed(row) for row in settlement.failures])
    if settlement.held:
        await connection.execute(_HOLD[dialect], many_ids(dialect, settlement.held))
    if settlement.released:
        await release(connection, settlement.released, in_sight=settlement.in_sight)


def _failed(row: Retry | Failure) -> dict[str, object]:
    return {
        "id": row.id,
        "attempts": row.attempts,
        "error": storable(row.error)[:_MAX_ERROR],
        "entry": entry(row.error),
    }


async def release(
    connection: AsyncConnection,
    portions: Mapping[str, int],
    *,
    in_sight: Collection[str] = (),
) -> None:
    """Give the relay back the first followers of each resource without a head, so many of each.

    What has no resource follows nothing. On PostgreSQL the caller holds the lanes' locks.
    `in_sight` are resources that have ready rows before the ones that come back.
    """
    found = sorted((resource, portion) for resource, portion in portions.items() if resource)
    if not found:
        return
    if connection.dialect.name != "postgresql":
        each = [{"resource": resource, "portion": portion} for resource, portion in found]
        await connection.execute(_RELEASE, each)
        return
    resources = [resource for resource, _ in found]
    await connection.execute(
        _PG_RELEASE,
        {
            "resources": resources,
            "portions": [portion for _, portion in found],
            "reopened": sorted(set(resources).difference(in_sight)),
        },
    )


async def lock_lanes(
    connection: AsyncConnection, lanes: Iterable[int] = range(LANES), *, limit: float = LANE_WAIT
) -> None:
    """Wait for the relays that have `lanes`, as long as `limit` seconds for each lane; they get no
    other claim on these until the transaction ends. Nothing to do on SQLite.

    Whoever locks lanes and rows locks the lanes first. Raises the database's error when a relay
    takes longer.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(_PG_LANE_WAIT, {"limit": f"{limit:g}s"})
        await connection.execute(_PG_LOCK_LANES, {"lanes": sorted(lanes)})
