"""How many rows the bridge's tables hold, by what is to become of them.

Each number is read from an index, and no row is: what is unsent, failed or unprocessed from a
partial one, whose size is that number, however many finished rows lie around. A large backlog is
estimated. Only the finished ones are counted in the primary key, and estimated where they are many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge.inbox.tables import InboxStatus


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits to be sent, and what does not any more."""

    pending: int
    failed: int
    oldest_pending_seconds: float | None  # None when nothing is pending
    # Of those pending: rows that wait for their next try, or behind one of their resource.
    held: int


@dataclass(frozen=True, slots=True)
class OutboxStats(Backlog):
    """The whole outbox."""

    sent: int


@dataclass(frozen=True, slots=True)
class InboxStats:
    """The whole inbox, by status."""

    received: int
    processing: int
    processed: int
    failed: int
    dead_lettered: int


@dataclass(frozen=True, slots=True)
class Flow:
    """What moves. Two of these tell how many rows were written between them."""

    newest: int  # key of the youngest outbox row; 0 when there is none
    handled: int  # events whose handling ended in the last `within` seconds


# Ready rows are read lane by lane from their floor on, since what lies before it in the index was
# sent and waits for a vacuum (see `outbox.floors`); and not further than `most` in each. The oldest
# of the ready rows is the first of a lane; the oldest of the others is one that waits for its own
# next try, since what waits behind it is younger. Rows that another program marks as `publishing`
# are not sent.
_LANES = {
    "postgresql": """
        SELECT c.* FROM jetstream_outbox_lanes l CROSS JOIN LATERAL (
          SELECT count(*) AS number, min(id) AS first, max(id) AS last FROM (
            SELECT e.id FROM jetstream_outbox_events e
             WHERE e.lane = l.lane AND e.status = 'pending' AND NOT e.held AND e.id > l.floor
             ORDER BY e.id LIMIT :most) r) c""",
    "sqlite": """
        SELECT count(*) AS number, min(id) AS first, max(id) AS last FROM (
          SELECT e.id FROM jetstream_outbox_events e
           WHERE e.lane = 0 AND e.status = 'pending' AND NOT e.held ORDER BY e.id LIMIT :most) r""",
}
# Of a lane with more of them the number is estimated: its rows are spread evenly over the ids.
_READY = """
    SELECT coalesce(sum(CASE WHEN number < :most THEN number ELSE
             number * ((SELECT max(id) FROM jetstream_outbox_events) - first + 1)
                    / (last - first + 1) END), 0) AS ready,
           min((SELECT e.enqueued_at FROM jetstream_outbox_events e WHERE e.id = first)) AS oldest
      FROM lanes"""
_BACKLOG = """
    CAST(ready.ready AS bigint)
  + held.held
  + (SELECT count(*) FROM jetstream_outbox_events WHERE status = 'publishing') AS pending,
    (SELECT count(*) FROM jetstream_outbox_events WHERE status = 'failed') AS failed,
    ready.oldest AS oldest_ready, held.held AS held,
    (SELECT min(enqueued_at) FROM jetstream_outbox_events WHERE retry_at IS NOT NULL)
      AS oldest_waiting"""
MOST_READY = 10_000  # counted in each lane
MOST_ROWS = 200_000  # counted in a whole table; of a larger one the number is an estimate
# PostgreSQL's is as old as the last vacuum; SQLite's counts gaps between keys too.
_ESTIMATE = {
    "postgresql": "greatest(f.number, (SELECT CAST(reltuples AS bigint) FROM pg_catalog.pg_class"
    " WHERE oid = CAST('{0}' AS regclass)))",
    "sqlite": "max(f.number, (SELECT max(id) - min(id) + 1 FROM {0}))",
}


def _total(dialect: str, table: str) -> str:
    return f"""(
    SELECT CASE WHEN f.number < :most_rows THEN f.number ELSE {_ESTIMATE[dialect].format(table)} END
      FROM (SELECT count(*) AS number FROM (SELECT 1 AS one FROM {table} LIMIT :most_rows) r) f)"""


_SECONDS_SINCE = {
    "postgresql": "extract(epoch FROM clock_timestamp() - {0})",
    "sqlite": "(strftime('%J', 'now') - julianday({0})) * 86400.0",
}


def _counting(dialect: str, columns: str) -> TextClause:
    ready, waiting = (
        _SECONDS_SINCE[dialect].format(moment) for moment in ("oldest_ready", "oldest_waiting")
    )
    fenced = "AS MATERIALIZED" if dialect == "postgresql" else "AS"
    return text(f"""
        WITH lanes {fenced} ({_LANES[dialect]}), ready {fenced} ({_READY}),
             held {fenced} (SELECT count(*) AS held FROM jetstream_outbox_events WHERE held),
             counted {fenced} (SELECT {columns} FROM ready, held)
        SELECT c.*, {ready} AS ready, {waiting} AS waiting FROM counted c""")


_COUNT_BACKLOG = {name: _counting(name, _BACKLOG) for name in _SECONDS_SINCE}
_COUNT_OUTBOX = {
    name: _counting(name, f"{_BACKLOG}, {_total(name, 'jetstream_outbox_events')} AS total")
    for name in _SECONDS_SINCE
}

_COUNT_INBOX = {
    name: text(f"""
    SELECT status, count(*) AS number FROM jetstream_inbox_events
     WHERE status <> 'processed' GROUP BY status
     UNION ALL
    SELECT 'total', {_total(name, "jetstream_inbox_events")}""")
    for name in _SECONDS_SINCE
}

# Both are read from the end of an index, whatever the tables' size. PostgreSQL compares an index
# with a moment that stands still during the statement; clock_timestamp() does not.
_FLOW = """
    SELECT coalesce((SELECT max(id) FROM jetstream_outbox_events
                      WHERE id >= (SELECT max(floor) FROM jetstream_outbox_lanes)),
                    (SELECT max(floor) FROM jetstream_outbox_lanes), 0) AS newest,
           (SELECT count(*) FROM (SELECT 1 AS one FROM jetstream_inbox_events
                                   WHERE processed_at > {since} LIMIT :most) h) AS handled"""
_COUNT_FLOW = {
    "postgresql": text(
        _FLOW.format(since="statement_timestamp() - make_interval(secs => :within)")
    ),
    "sqlite": text(
        _FLOW.format(since="strftime('%Y-%m-%d %H:%M:%f000', 'now', '-' || :within || ' seconds')")
    ),
}
_MOST_HANDLED = 200_000  # counted at once

# The planner would rather read the table where most of it is counted; an index is a tenth of it.
_PG_BY_INDEX = text("SELECT set_config('enable_seqscan', 'off', true)")


async def outbox_backlog(engine: AsyncEngine) -> Backlog:
    """Count what is unsent: cheap enough to be asked every few seconds."""
    [row] = await _read(engine, _COUNT_BACKLOG[engine.dialect.name], most=MOST_READY)
    return Backlog(row["pending"], row["failed"], _oldest(row), row["held"])


async def outbox_stats(engine: AsyncEngine) -> OutboxStats:
    """Count the whole outbox: 100,000 rows take some 20 ms. More than 200,000 are estimated."""
    statement = _COUNT_OUTBOX[engine.dialect.name]
    [row] = await _read(engine, statement, most=MOST_READY, most_rows=MOST_ROWS)
    sent = max(0, row["total"] - row["pending"] - row["failed"])
    return OutboxStats(row["pending"], row["failed"], _oldest(row), row["held"], sent)


async def flow(engine: AsyncEngine, *, within: float) -> Flow:
    """Look at what moved lately: cheap enough to be asked every few seconds."""
    statement = _COUNT_FLOW[engine.dialect.name]
    [row] = await _read(engine, statement, within=within, most=_MOST_HANDLED)
    return Flow(row["newest"], row["handled"])


async def inbox_stats(engine: AsyncEngine) -> InboxStats:
    """Count the whole inbox; more than 200,000 processed rows are estimated."""
    rows = await _read(engine, _COUNT_INBOX[engine.dialect.name], most_rows=MOST_ROWS)
    found = {row["status"]: row["number"] for row in rows}
    total = found.pop("total")
    numbers = {status.value: found.get(status.value, 0) for status in InboxStatus}
    return InboxStats(**numbers | {"processed": max(0, total - sum(found.values()))})


async def _read(
    engine: AsyncEngine, statement: TextClause, **parameters: object
) -> list[Mapping[str, Any]]:
    # Looking must not take SQLite's write lock; other databases ignore the option.
    reader = engine.execution_options(sqlite_begin="DEFERRED")
    async with reader.begin() as connection:
        if engine.dialect.name == "postgresql":
            await connection.execute(_PG_BY_INDEX)
        found = await connection.execute(statement, parameters)
        return [dict(row) for row in found.mappings()]


def _oldest(row: Mapping[str, Any]) -> float | None:
    # SQLite counts days in floating point, true to some 40 µs: a new row may seem to be from ahead.
    ages = [max(0.0, float(age)) for age in (row["ready"], row["waiting"]) if age is not None]
    return max(ages, default=None)
