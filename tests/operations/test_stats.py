"""Counting: right for every state of a row, and read from indexes however much lies around."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge.operations.statistics import (
    _COUNT_BACKLOG,
    Backlog,
    Flow,
    InboxStats,
    OutboxStats,
    flow,
    inbox_stats,
    outbox_backlog,
    outbox_stats,
)
from jetstream_bridge.outbox.claims import lanes_of
from jetstream_bridge.outbox.settlement import Failure, Retry, Settlement
from jetstream_bridge.outbox.tables import LANES
from tests.bridge.support import database, statements
from tests.outbox.test_lanes import MUCH, fill, ids, run
from tests.outbox.test_outbox_maintenance import settle


async def test_an_empty_outbox_has_no_oldest_event(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        assert await outbox_stats(engine) == OutboxStats(0, 0, None, 0, 0)


async def test_every_row_of_the_outbox_is_counted_once(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill(engine, 10, resources=1)
        known = await ids(engine)
        await settle(
            engine,
            Settlement(
                sent=[known["e0"], known["e1"]],
                failures=[Failure(known["e2"], 10, "no")],
                retries=[Retry(known["e3"], 1, "no", 3600.0)],
                held=[known["e4"], known["e5"]],
            ),
        )
        await run(
            engine, "UPDATE jetstream_outbox_events SET status = 'publishing' WHERE event_id = 'e9'"
        )
        found = await outbox_stats(engine)
        assert (found.pending, found.failed, found.sent) == (7, 1, 2)
        backlog = await outbox_backlog(engine)
        assert (backlog.pending, backlog.failed, backlog.held) == (7, 1, 3)


def _ago(engine: AsyncEngine, seconds: int) -> str:
    if engine.dialect.name == "postgresql":
        return f"now() - interval '{seconds} seconds'"
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', '-{seconds} seconds')"


@pytest.mark.parametrize("waits", [False, True])
async def test_the_oldest_pending_event_is_found_whether_ready_or_waiting(
    database_url: str, waits: bool
) -> None:
    async with database(database_url) as (engine, _):
        await fill(engine, 40, resources=40)
        known = await ids(engine)
        old = _ago(engine, 300)
        await run(
            engine,
            f"UPDATE jetstream_outbox_events SET enqueued_at = {old} WHERE event_id = 'e0'",
        )
        if waits:
            await settle(engine, Settlement(retries=[Retry(known["e0"], 1, "no", 3600.0)]))
        found = await outbox_backlog(engine)
        assert isinstance(found, Backlog)
        assert found.oldest_pending_seconds == pytest.approx(300, abs=30)
        await run(engine, "UPDATE jetstream_outbox_events SET status = 'sent', retry_at = NULL")
        assert (await outbox_backlog(engine)).oldest_pending_seconds is None


async def test_the_inbox_is_counted_by_status(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        assert await inbox_stats(engine) == InboxStats(0, 0, 0, 0, 0)
        given = ["processed"] * 3 + ["failed"] * 2 + ["dead_lettered", "received", "processing"]
        for number, status in enumerate(given):
            await run(
                engine,
                "INSERT INTO jetstream_inbox_events (consumer, event_id, subject, status) "
                f"VALUES ('c', 'e{number}', 's', '{status}')",
            )
        assert await inbox_stats(engine) == InboxStats(
            received=1, processing=1, processed=3, failed=2, dead_lettered=1
        )


async def test_what_moved_lately_is_counted(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        assert await flow(engine, within=10) == Flow(newest=0, handled=0)
        await fill(engine, 3, resources=1)
        for number, age in enumerate((1, 5, 30)):
            await run(
                engine,
                "INSERT INTO jetstream_inbox_events (consumer, event_id, subject, status,"
                f" processed_at) VALUES ('c', 'e{number}', 's', 'processed', {_ago(engine, age)})",
            )
        assert await flow(engine, within=10) == Flow(newest=(await ids(engine))["e2"], handled=2)


async def test_counting_costs_one_query(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        for count in (outbox_stats, outbox_backlog, inbox_stats):
            seen = statements(engine)
            await count(engine)
            asked = [s for s in seen if "count(" in s]
            assert len(asked) == 1
            assert len(seen) == 2, "SQLite's BEGIN, or PostgreSQL's setting, and the query"


_ROWS = 100_000
_FILL = """
    INSERT INTO jetstream_outbox_events (event_id, subject, payload, status, sent_at)
    SELECT 'x' || n, 's', json_build_object('resource_type', 'order', 'resource_id', n % 500,
                                            'payload', repeat('x', 200)),
           CASE WHEN n % 100 = 0 THEN 'pending' WHEN n % 1000 = 1 THEN 'failed' ELSE 'sent' END,
           now()
      FROM generate_series(1, {0}) n"""
_FILL_INBOX = """
    INSERT INTO jetstream_inbox_events (consumer, event_id, subject, payload, status, processed_at)
    SELECT 'c', 'x' || n, 's', json_build_object('payload', repeat('x', 200)),
           CASE WHEN n % 100 = 0 THEN 'failed' ELSE 'processed' END, now()
      FROM generate_series(1, {0}) n"""


async def test_counts_of_a_hundred_thousand_rows_are_read_from_indexes(postgres_url: str) -> None:
    async with database(postgres_url) as (engine, _):
        await run(engine, _FILL.format(_ROWS))
        await run(engine, _FILL_INBOX.format(_ROWS))
        async with engine.connect() as connection:
            free = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await free.execute(text("VACUUM ANALYZE jetstream_outbox_events"))
            await free.execute(text("VACUUM ANALYZE jetstream_inbox_events"))
        backlog = await _plan(engine, outbox_backlog)
        assert max(_rows(backlog)) <= _ROWS / 100, backlog
        assert "Seq Scan on jetstream_outbox_events" not in backlog
        whole = await _plan(engine, outbox_stats)
        assert "Seq Scan on jetstream_outbox_events" not in whole, whole
        assert "Index Only Scan using pk_jetstream_outbox_events" in whole, whole
        inbox = await _plan(engine, inbox_stats)
        assert "Index Only Scan using ix_jetstream_inbox_events_unprocessed" in inbox, inbox
        assert "Seq Scan on jetstream_inbox_events" not in inbox, inbox
        await run(engine, f"UPDATE jetstream_inbox_events SET processed_at = {_ago(engine, 60)}")
        lately = await _plan(engine, partial(flow, within=10))
        assert "Index Only Scan Backward using pk_jetstream_outbox_events" in lately, lately
        assert "using ix_jetstream_inbox_events_processed_at" in lately, lately
        assert "Index Cond: (processed_at > " in lately and "Filter" not in lately, lately
        assert max(_rows(lately)) <= LANES, lately
        stats = await outbox_stats(engine)
        assert (stats.pending, stats.failed, stats.sent) == (1000, 100, 98_900)


def _rows(plan: str) -> list[int]:
    return [int(found) for found in re.findall(r"actual .*?rows=(\d+)", plan)]


async def _plan(engine: AsyncEngine, count: object) -> str:
    """Return the plan of the query that `count` asks, with what it really did."""
    queries: list[tuple[str, Any]] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def note(conn: object, cursor: object, statement: str, values: object, *_: object) -> None:
        if "count(" in statement:
            queries.append((statement, values))

    await count(engine)  # type: ignore[operator]
    event.remove(engine.sync_engine, "before_cursor_execute", note)
    [(query, values)] = queries
    async with engine.connect() as connection:
        await connection.execute(text("SET enable_seqscan = off"))
        found = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, COSTS off) {query}", values)
        return "\n".join(row[0] for row in found)


async def test_a_large_backlog_is_estimated(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database(database_url) as (engine, _):
        await fill(engine, 3000, resources=500)
        exact = await outbox_backlog(engine)
        assert exact.pending == 3000
        monkeypatch.setattr("jetstream_bridge.operations.statistics.MOST_READY", 50)
        estimated = await outbox_backlog(engine)
        assert estimated.pending == pytest.approx(3000, rel=0.3)


@pytest.mark.parametrize("pending", [0, 20_000])
async def test_the_backlog_costs_the_same_after_many_events(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, pending: int
) -> None:
    """Pages touched, and not time: rows that were sent and not vacuumed, and rows not sent."""
    monkeypatch.setattr("jetstream_bridge.operations.statistics.MOST_READY", 100)
    async with database(postgres_url) as (engine, _):
        await run(engine, "ALTER TABLE jetstream_outbox_events SET (autovacuum_enabled = false)")
        await generate(engine, 20_000, prefix="sent")
        lanes = lanes_of(engine, transaction_limit=30)
        claimed = True
        while claimed:
            async with lanes.claim(4000, MUCH) as claim:
                claimed = bool(claim.rows)
                await claim.settle(Settlement(sent=[row.id for row in claim.rows]))
        await generate(engine, pending, prefix="new")
        await outbox_backlog(engine)  # the first one to pass by marks what is dead
        async with engine.begin() as connection:
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
            explain = text(f"EXPLAIN (ANALYZE, BUFFERS, COSTS off) {_COUNT_BACKLOG['postgresql']}")
            plan = [row[0] for row in await connection.execute(explain, {"most": 100})]
        touched = re.search(r"Buffers: shared hit=(\d+)(?: read=(\d+))?", "\n".join(plan))
        assert touched is not None
        pages = sum(int(found or 0) for found in touched.groups())
        assert pages < 16 * 100 / 2, "\n".join(plan)


async def generate(engine: AsyncEngine, number: int, *, prefix: str) -> None:
    await run(
        engine,
        "INSERT INTO jetstream_outbox_events (event_id, subject, payload) "
        f"SELECT '{prefix}' || n, 'a.b', json_build_object('resource_type', 'o', 'resource_id', "
        f"CAST(n AS text)) FROM generate_series(1, {number}) n",
    )
