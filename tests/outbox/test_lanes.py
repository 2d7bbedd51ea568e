"""The relay's statements: their cost does not depend on what lies around, and nothing is stuck."""

from __future__ import annotations

import asyncio
import re

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge.core.leases import LeaseHolder
from jetstream_bridge.outbox.claims import Claim, lanes_of
from jetstream_bridge.outbox.pauses import OutboxPause
from jetstream_bridge.outbox.settlement import Failure, Retry, Settlement
from tests.bridge.support import database, enqueue, envelope, rows, scalar, statements

MUCH = 1 << 30  # bytes
SUBJECT = "test.a.sync.b"


async def fill(engine: AsyncEngine, number: int, *, resources: int, prefix: str = "e") -> None:
    events = [
        {
            "event_id": f"{prefix}{n}",
            "payload": envelope(f"{prefix}{n}", resource=str(n % resources)),
        }
        for n in range(number)
    ]
    await enqueue(engine, events, subject=SUBJECT)


async def run(engine: AsyncEngine, sql: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(sql))


def claimed(claim: Claim) -> list[str]:
    return [row.event_id for row in claim.rows]


@pytest.mark.parametrize("state", ["never analysed", "all pending", "nearly all sent"])
async def test_claiming_reads_what_is_ready_and_nothing_else(postgres_url: str, state: str) -> None:
    """The relay's own statements are explained as they run: no scan may touch many rows."""
    async with database(postgres_url) as (engine, _):
        await fill(engine, 5000, resources=500)
        if state == "nearly all sent":
            await run(engine, "UPDATE jetstream_outbox_events SET status = 'sent' WHERE id < 4900")
        if state != "never analysed":
            await run(engine, "ANALYZE jetstream_outbox_events")
        plans = await explained(engine, limit=80)
        for plan in plans:
            touched = [int(found) for found in re.findall(r"actual .*?rows=(\d+)", plan)]
            removed = [int(found) for found in re.findall(r"Rows Removed by Filter: (\d+)", plan)]
            assert max(touched) <= 100, plan
            assert sum(removed) <= 100, plan


async def explained(engine: AsyncEngine, *, limit: int) -> list[str]:
    """Return the plans of the statements of one claim, with what they really did."""
    claims: list[tuple[str, object]] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def note(conn: object, cursor: object, statement: str, parameters: object, *_: object) -> None:
        if "jetstream_outbox" in statement:
            claims.append((statement, parameters))

    plans = []
    async with lanes_of(engine, transaction_limit=30).claim(limit, MUCH):
        pass
    event.remove(engine.sync_engine, "before_cursor_execute", note)
    async with engine.connect() as connection:
        await connection.execute(text("SET enable_seqscan = off"))
        await connection.execute(text("SET random_page_cost = 1"))
        for statement, parameters in claims:
            found = await connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, COSTS off) {statement}",
                parameters,  # type: ignore[arg-type]
            )
            plans.append("\n".join(row[0] for row in found))
    return plans


async def test_claims_of_two_relays_do_not_overlap_and_busy_lanes_take_turns(
    postgres_url: str,
) -> None:
    async with database(postgres_url) as (engine, _):
        await fill(engine, 400, resources=200)
        first, second = (lanes_of(engine, transaction_limit=30) for _ in range(2))
        async with first.claim(100, MUCH) as one, second.claim(100, MUCH) as two:
            assert claimed(one)
            assert claimed(two)
            assert not set(claimed(one)) & set(claimed(two))
            taken = set(claimed(one))
        async with first.claim(100, MUCH) as again:
            assert not set(claimed(again)) & taken, "the other half of the lanes is next"


async def test_only_one_relay_works_on_sqlite_and_another_takes_over_when_it_stops(
    sqlite_url: str,
) -> None:
    async with database(sqlite_url) as (engine, _):
        await fill(engine, 3, resources=3)
        first, second = (lanes_of(engine, transaction_limit=30) for _ in range(2))
        async with first.claim(10, MUCH) as one, second.claim(10, MUCH) as two:
            assert len(claimed(one)) == 3
            assert claimed(two) == []
        await first.stop()
        async with second.claim(10, MUCH) as two:
            assert len(claimed(two)) == 3


async def test_a_paused_outbox_is_left_alone(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill(engine, 3, resources=3)
        lanes = lanes_of(engine, transaction_limit=30)
        pause = OutboxPause(engine)
        assert await pause.pause()
        assert not await pause.pause(), "once is enough"
        async with lanes.claim(10, MUCH) as claim:
            assert claimed(claim) == []
            assert claim.paused_since == await pause.since() is not None
        assert await pause.resume()
        assert not await pause.resume()
        async with lanes.claim(10, MUCH) as claim:
            assert len(claimed(claim)) == 3
            assert claim.paused_since is None


async def test_pausing_does_not_wait_for_a_relay_that_holds_its_lanes(postgres_url: str) -> None:
    async with database(postgres_url) as (engine, _):
        await fill(engine, 3, resources=3)
        async with lanes_of(engine, transaction_limit=30).claim(10, MUCH) as claim:
            assert len(claimed(claim)) == 3
            async with asyncio.timeout(10):
                await OutboxPause(engine).pause()


async def ids(engine: AsyncEngine) -> dict[str, int]:
    return {
        row[0]: row[1]
        for row in await rows(engine, "SELECT event_id, id FROM jetstream_outbox_events")
    }


async def test_a_row_that_must_wait_is_out_of_sight_until_it_is_due(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill(engine, 3, resources=1)
        lanes = lanes_of(engine, transaction_limit=30)
        known = await ids(engine)
        async with lanes.claim(10, MUCH) as claim:
            await claim.settle(
                Settlement(
                    retries=[Retry(known["e0"], 1, "no", 3600.0)], held=[known["e1"], known["e2"]]
                )
            )
        async with lanes.claim(10, MUCH) as claim:
            assert claimed(claim) == []
        await fill(engine, 1, resources=1, prefix="late")
        async with lanes.claim(10, MUCH) as claim:
            [late] = claim.rows
            assert late.first_held == known["e0"]
        await run(
            engine,
            "UPDATE jetstream_outbox_events SET retry_at = '2020-01-01' WHERE event_id = 'e0'",
        )
        async with lanes.claim(10, MUCH) as claim:
            assert sorted(claimed(claim)) == ["e0", "late0"]
            [head] = [row for row in claim.rows if row.event_id == "e0"]
            await claim.settle(Settlement(sent=[head.id], released={head.resource: 1000}))
        async with lanes.claim(10, MUCH) as claim:
            assert claimed(claim) == ["e1", "e2", "late0"]


async def test_a_failed_row_keeps_its_error_and_frees_its_followers(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill(engine, 2, resources=1)
        known = await ids(engine)
        lanes = lanes_of(engine, transaction_limit=30)
        async with lanes.claim(10, MUCH) as claim:
            settlement = Settlement(held=[known["e1"]], retries=[Retry(known["e0"], 1, "x", 0.0)])
            await claim.settle(settlement)
        async with lanes.claim(10, MUCH) as claim:
            await claim.settle(
                Settlement(
                    failures=[Failure(known["e0"], 2, "E" * 5000)], released={"order:0": 1000}
                )
            )
        [failed] = await rows(
            engine,
            "SELECT attempts, last_error, held, retry_at FROM jetstream_outbox_events "
            "WHERE status = 'failed'",
        )
        assert (failed.attempts, len(failed.last_error), failed.retry_at) == (2, 2000, None)
        async with lanes.claim(10, MUCH) as claim:
            assert claimed(claim) == ["e1"]


async def test_a_lease_has_one_holder_and_ends_by_the_clock(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        first, second = LeaseHolder(engine, "x"), LeaseHolder(engine, "x")
        assert await first.acquire()
        assert not await second.acquire()
        assert await first.acquire(), "the holder renews it"
        await run(engine, "UPDATE jetstream_leases SET expires_at = '2020-01-01'")
        assert await second.acquire()
        assert not await first.acquire()
        await second.release()
        assert await first.acquire()
        assert await scalar(engine, "SELECT count(*) FROM jetstream_leases") == 1


async def test_a_claim_and_its_settlement_cost_four_statements(postgres_url: str) -> None:
    async with database(postgres_url) as (engine, _):
        await fill(engine, 1000, resources=1000)
        lanes = lanes_of(engine, transaction_limit=30)
        seen = statements(engine)
        async with lanes.claim(1000, MUCH) as claim:
            await claim.settle(Settlement(sent=[row.id for row in claim.rows]))
        assert len(seen) == 4, seen


async def fill_large(engine: AsyncEngine, *sizes: int, prefix: str = "large") -> None:
    events = [
        {
            "event_id": f"{prefix}{n}",
            "payload": envelope(f"{prefix}{n}", resource="1", note="x" * size),
        }
        for n, size in enumerate(sizes)
    ]
    await enqueue(engine, events, subject=SUBJECT)


async def test_a_claim_is_bounded_in_bytes(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill_large(engine, *[10_000] * 50)
        lanes = lanes_of(engine, transaction_limit=30)
        async with lanes.claim(1000, 100_000) as claim:
            assert claimed(claim) == [f"large{n}" for n in range(10)], "the last goes beyond it"
            assert sum(len(row.body) for row in claim.rows) < 110_000


async def test_one_row_always_goes_however_large_it_is(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill_large(engine, 900_000, 10)
        lanes = lanes_of(engine, transaction_limit=30)
        async with lanes.claim(1000, 1) as claim:
            assert claimed(claim) == ["large0"]
            await claim.settle(Settlement(sent=[row.id for row in claim.rows]))
        async with lanes.claim(1000, 1) as claim:
            assert claimed(claim) == ["large1"]


async def test_rows_due_for_another_try_count_too(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill_large(engine, *[10_000] * 20)
        known = await ids(engine)
        lanes = lanes_of(engine, transaction_limit=30)
        async with lanes.claim(1000, MUCH) as claim:
            due = [Retry(known[f"large{n}"], 1, "no", 0.0) for n in range(10)]
            await claim.settle(Settlement(retries=due))
        async with lanes.claim(1000, 50_000) as claim:
            assert claimed(claim) == [f"large{n}" for n in range(5)]


async def test_large_rows_are_not_read_to_be_left_where_they_are(postgres_url: str) -> None:
    """Their size stands in the row; the table that PostgreSQL keeps large values in is not read."""
    async with database(postgres_url) as (engine, _):
        await run(engine, "ALTER TABLE jetstream_outbox_events ALTER payload SET STORAGE EXTERNAL")
        await fill_large(engine, *[200_000] * 100)
        lanes = lanes_of(engine, transaction_limit=30)
        await run(engine, "SELECT pg_stat_force_next_flush()")
        before = await toast_blocks(engine)
        async with lanes.claim(1000, 400_000) as claim:
            assert len(claim.rows) == 2
        read = await toast_blocks(engine) - before
        assert 0 < read < 10 * 200_000 / 8192, "some of 100 rows"


async def toast_blocks(engine: AsyncEngine) -> int:
    await run(engine, "SELECT pg_stat_force_next_flush()")
    found = await scalar(
        engine,
        "SELECT toast_blks_read + toast_blks_hit FROM pg_statio_user_tables "
        "WHERE relname = 'jetstream_outbox_events'",
    )
    return int(found)
