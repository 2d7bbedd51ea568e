"""Operators' changes to the outbox: nothing is lost, no order is broken, nothing waits for them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import col

from jetstream_bridge.outbox import maintenance as outbox_maintenance
from jetstream_bridge.outbox.chains import chains_of, keep_pace
from jetstream_bridge.outbox.claims import lanes_of
from jetstream_bridge.outbox.maintenance import (
    Cleaned,
    DiscardOutcome,
    FailedFilter,
    OutboxMaintenance,
    RetryOutcome,
)
from jetstream_bridge.outbox.settlement import Failure, Retry, Settlement
from jetstream_bridge.outbox.tables import LANES, OutboxEvent
from jetstream_bridge.outbox.upkeep import MAINTENANCE_EVERY
from tests.bridge.support import config, database, enqueue, envelope, rows, statements
from tests.brokers import Broker, broker_of
from tests.outbox.test_lanes import MUCH, claimed, ids, run
from tests.outbox.test_relay import SUBJECT, all_sent, counts, many, relaying, settled, stored
from tests.waiting import eventually

TOO_LARGE = "x" * 2_000_000


async def fill(engine: AsyncEngine, number: int, *, resources: int) -> None:
    await enqueue(engine, many(number, resources=resources), subject=SUBJECT)


async def settle(engine: AsyncEngine, settlement: Settlement) -> None:
    lanes = lanes_of(engine, transaction_limit=30)
    async with lanes.claim(100, MUCH) as claim:
        await claim.settle(settlement)
    await lanes.stop()  # on SQLite the next one works at once


async def fail(engine: AsyncEngine, *event_ids: str) -> None:
    known = await ids(engine)
    await settle(engine, Settlement(failures=[Failure(known[e], 10, "refused") for e in event_ids]))


async def ready(engine: AsyncEngine) -> list[str]:
    """What a relay would take now, in the order in which it would send it."""
    lanes = lanes_of(engine, transaction_limit=30)
    async with lanes.claim(100, MUCH) as claim:
        found = sorted(claim.rows, key=lambda row: row.id)
    await lanes.stop()
    return [row.event_id for row in found]


async def test_a_failed_event_is_tried_again_with_all_its_attempts(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill(engine, 3, resources=1)
        await fail(engine, "e0")
        seen = statements(engine)
        assert await OutboxMaintenance(engine).retry("e0") is RetryOutcome.RETRIED
        assert len(seen) == 1 + (engine.dialect.name == "sqlite"), "SQLite's BEGIN is one too"
        assert await ready(engine) == ["e0", "e1", "e2"], "it goes before the later ones"
        [row] = await rows(
            engine, "SELECT attempts, last_error FROM jetstream_outbox_events WHERE event_id = 'e0'"
        )
        assert (row.attempts, row.last_error) == (0, "refused"), "why it failed is still known"


async def test_an_event_that_waits_for_its_next_try_is_due_at_once(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill(engine, 2, resources=1)
        known = await ids(engine)
        waits = Settlement(retries=[Retry(known["e0"], 3, "no", 3600.0)], held=[known["e1"]])
        await settle(engine, waits)
        maintenance = OutboxMaintenance(engine)
        assert await maintenance.retry("e1") is RetryOutcome.PENDING, "its turn is after e0"
        assert await ready(engine) == []
        assert await maintenance.retry("e0") is RetryOutcome.RETRIED
        assert await ready(engine) == ["e0"]
        [row] = await rows(
            engine, "SELECT attempts, held FROM jetstream_outbox_events WHERE event_id = 'e0'"
        )
        assert (row.attempts, bool(row.held)) == (3, True), "only its pause is cut short"


async def test_what_another_program_left_half_way_is_sent(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill(engine, 1, resources=1)
        await run(engine, "UPDATE jetstream_outbox_events SET status = 'publishing'")
        assert await ready(engine) == []
        assert await OutboxMaintenance(engine).retry("e0") is RetryOutcome.RETRIED
        assert await ready(engine) == ["e0"]


async def test_what_cannot_be_retried_is_told_and_left_alone(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill(engine, 2, resources=2)
        await run(engine, "UPDATE jetstream_outbox_events SET status = 'sent' WHERE id = 1")
        maintenance = OutboxMaintenance(engine)
        assert await maintenance.retry("e0") is RetryOutcome.SENT
        assert await maintenance.retry("e1") is RetryOutcome.PENDING
        assert await maintenance.retry("nobody's") is RetryOutcome.UNKNOWN
        assert await counts(engine) == {"sent": 1, "pending": 1}


async def test_all_failed_events_are_retried_a_portion_at_a_time(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill(engine, 40, resources=4)
        await run(engine, "UPDATE jetstream_outbox_events SET status = 'failed' WHERE id <= 25")
        seen = statements(engine)
        maintenance = OutboxMaintenance(engine)
        assert [portion async for portion in maintenance.retrying_failed(portion=10)] == [10, 10, 5]
        assert len([one for one in seen if "UPDATE" in one]) == 4, "and one that finds none"
        assert await counts(engine) == {"pending": 40}
        assert await maintenance.retry_failed() == 0


async def test_many_failed_events_of_one_resource_go_at_once_and_in_order(
    database_url: str,
) -> None:
    """Whatever part of them a claim finds due; and nobody waits for the clean-up to free them."""
    async with database(database_url) as (engine, _):
        await fill(engine, 300, resources=1)
        await run(engine, "UPDATE jetstream_outbox_events SET status = 'failed'")
        assert await OutboxMaintenance(engine).retry_failed() == 300
        lanes, sent = lanes_of(engine, transaction_limit=30), list[str]()
        for _ in range(60):
            async with lanes.claim(60, MUCH) as claim:
                settlement = Settlement()
                for chain in chains_of(claim.rows, settlement, "nats-msg-id"):
                    settlement.sent.extend(row.id for row in chain.rows)
                    sent.extend(row.event_id for row in chain.rows)
                    keep_pace(chain, len(chain.rows), settlement)
                await claim.settle(settlement)
        assert sent == [f"e{n}" for n in range(300)]


@pytest.mark.parametrize(
    ("which", "retried"),
    [
        (FailedFilter(), ["a", "b", "c", "d"]),
        (FailedFilter(event_type="order.changed"), ["a", "d"]),
        (FailedFilter(event_type="customer.changed"), ["b"]),
        (FailedFilter(event_type="invoice.paid"), ["c"]),
        (FailedFilter(event_type="paid"), ["c"]),
        (FailedFilter(resource_type="order"), ["a", "d"]),
        (FailedFilter(subject="test.a.sync.other"), ["d"]),
        (FailedFilter(resource_type="customer", subject="test.a.sync.other"), []),
    ],
)
async def test_a_filter_narrows_what_is_retried(
    database_url: str, which: FailedFilter, retried: list[str]
) -> None:
    async with database(database_url) as (engine, _):
        split = json.loads(envelope("c", kind="invoice")) | {"event_type": "paid"}
        await enqueue(
            engine,
            [
                {"event_id": "a", "payload": envelope("a", resource="1")},
                {"event_id": "b", "payload": envelope("b", resource="2", kind="customer")},
                {"event_id": "c", "payload": json.dumps(split)},
            ],
            subject=SUBJECT,
        )
        other = [{"event_id": "d", "payload": envelope("d", resource="4")}]
        await enqueue(engine, other, subject="test.a.sync.other")
        await run(engine, "UPDATE jetstream_outbox_events SET status = 'failed'")
        assert await OutboxMaintenance(engine).retry_failed(which) == len(retried)
        found = await rows(
            engine,
            "SELECT event_id FROM jetstream_outbox_events WHERE status = 'pending' ORDER BY id",
        )
        assert [row.event_id for row in found] == retried


async def test_a_retried_event_and_the_waiting_ones_of_its_resource_reach_the_stream_in_order(
    database_url: str, broker: Broker
) -> None:
    """The failed one is the oldest, and a later one waits for its own next try meanwhile."""
    async with database(database_url) as (engine, sessions):
        await fill(engine, 4, resources=1)
        known = await ids(engine)
        await fail(engine, "e0")
        waits = Settlement(retries=[Retry(known["e1"], 1, "no", 0.0)], held=[known["e2"]])
        await settle(engine, waits)
        assert await OutboxMaintenance(engine).retry("e0") is RetryOutcome.RETRIED
        async with relaying(config(broker.url), sessions, broker):
            await eventually(all_sent(engine, 4))
        sent = [json.loads(message.data or b"")["event_id"] for message in await stored(broker)]
        assert sent == ["e0", "e1", "e2", "e3"]


async def test_a_later_event_does_not_overtake_one_that_was_retried_and_waits_again(
    database_url: str,
) -> None:
    async with database(database_url) as (engine, _):
        await fill(engine, 3, resources=1)
        known = await ids(engine)
        await fail(engine, "e0")
        later = Settlement(retries=[Retry(known["e1"], 1, "no", 0.0)], held=[known["e2"]])
        await settle(engine, later)
        assert await OutboxMaintenance(engine).retry("e0") is RetryOutcome.RETRIED
        # What the relay writes when e0 is refused once more: e1, which is due, follows it now.
        again = Settlement(retries=[Retry(known["e0"], 1, "no", 3600.0)], held=[known["e1"]])
        await settle(engine, again)
        assert await ready(engine) == []
        await OutboxMaintenance(engine).retry("e0")
        assert await ready(engine) == ["e0"]
        await settle(engine, Settlement(sent=[known["e0"]], released={"order:0": 1000}))
        assert await ready(engine) == ["e1", "e2"]


async def test_a_relay_lets_a_due_event_wait_for_an_older_one_that_waits(
    database_url: str, broker: Broker
) -> None:
    """Two of one resource wait for a try of their own; the younger one is due first."""
    async with database(database_url) as (engine, sessions):
        await fill(engine, 2, resources=1)
        known = await ids(engine)
        both = [Retry(known["e0"], 1, "no", 3600.0), Retry(known["e1"], 1, "no", 0.0)]
        await settle(engine, Settlement(retries=both))

        async def follows() -> bool:
            found = await rows(engine, "SELECT event_id, retry_at FROM jetstream_outbox_events")
            return {row.event_id for row in found if row.retry_at is not None} == {"e0"}

        async with relaying(config(broker.url), sessions, broker):
            await eventually(follows, what="e1 follows e0")
            await OutboxMaintenance(engine).retry("e0")
            await eventually(all_sent(engine, 2))
        sent = [json.loads(message.data or b"")["event_id"] for message in await stored(broker)]
        assert sent == ["e0", "e1"]


async def test_an_event_that_fails_is_corrected_outside_and_goes_out_after_a_retry(
    sqlite_url: str, broker: Broker
) -> None:
    async with database(sqlite_url) as (engine, sessions):
        large = {"event_id": "large", "payload": envelope("large", resource="1", text=TOO_LARGE)}
        after = {"event_id": "after", "payload": envelope("after", resource="1")}
        await enqueue(engine, [large, after], subject=SUBJECT)
        settings = config(broker.url, outbox_max_attempts=1)
        async with relaying(settings, sessions, broker) as bridge:
            await eventually(settled(engine, failed=1, sent=1))
            small = envelope("large", resource="1", text="small")
            async with engine.begin() as connection:
                await connection.execute(
                    update(OutboxEvent)
                    .where(col(OutboxEvent.status) == "failed")
                    .values(payload=small)
                )
            assert await bridge.outbox_maintenance.retry_failed() == 1
            await eventually(all_sent(engine, 2))


async def test_a_discarded_event_is_gone_and_frees_what_waits_behind_it(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill(engine, 3, resources=1)
        known = await ids(engine)
        waits = Settlement(
            retries=[Retry(known["e0"], 1, "no", 3600.0)], held=[known["e1"], known["e2"]]
        )
        await settle(engine, waits)
        maintenance = OutboxMaintenance(engine)
        assert await maintenance.discard("e1") is DiscardOutcome.DISCARDED
        assert await ready(engine) == [], "e2 still waits for e0"
        assert await maintenance.discard("e0") is DiscardOutcome.DISCARDED
        assert await ready(engine) == ["e2"]


async def test_failed_and_pending_events_can_be_discarded_and_sent_ones_cannot(
    database_url: str,
) -> None:
    async with database(database_url) as (engine, _):
        await fill(engine, 3, resources=3)
        await run(engine, "UPDATE jetstream_outbox_events SET status = 'failed' WHERE id = 1")
        await run(engine, "UPDATE jetstream_outbox_events SET status = 'sent' WHERE id = 2")
        maintenance = OutboxMaintenance(engine)
        assert await maintenance.discard("e0") is DiscardOutcome.DISCARDED
        assert await maintenance.discard("e1") is DiscardOutcome.SENT
        assert await maintenance.discard("e2") is DiscardOutcome.DISCARDED
        assert await maintenance.discard("e0") is DiscardOutcome.UNKNOWN
        assert await counts(engine) == {"sent": 1}


async def test_discarding_waits_for_a_relay_that_has_the_event_in_hand(postgres_url: str) -> None:
    async with database(postgres_url) as (engine, _):
        await fill(engine, 1, resources=1)
        maintenance = OutboxMaintenance(engine)
        async with lanes_of(engine, transaction_limit=30).claim(10, MUCH) as claim:
            discarding = asyncio.create_task(maintenance.discard("e0"))

            async def waits() -> bool:
                found = await rows(
                    engine, "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                )
                return bool(found)

            await eventually(waits, what="the discarding waits for the lane")
            await claim.settle(Settlement(sent=[row.id for row in claim.rows]))
        assert await discarding is DiscardOutcome.SENT
        assert await counts(engine) == {"sent": 1}


async def test_discarding_gives_up_when_a_relay_keeps_the_event(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_maintenance, "LANE_WAIT", 0.1)
    async with database(postgres_url) as (engine, _):
        await fill(engine, 1, resources=1)
        async with lanes_of(engine, transaction_limit=30).claim(10, MUCH) as claim:
            assert claimed(claim) == ["e0"]
            with pytest.raises(TimeoutError, match=r"a relay has held lane \d+ for 0\.1 s"):
                await OutboxMaintenance(engine).discard("e0")
        assert await counts(engine) == {"pending": 1}


async def test_sent_rows_are_deleted_by_age_a_portion_at_a_time(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill(engine, 30, resources=3)
        await run(
            engine,
            "UPDATE jetstream_outbox_events SET status = 'sent', sent_at = '2020-01-01' "
            "WHERE id <= 25 AND id <> 7",
        )
        await run(
            engine,
            "UPDATE jetstream_outbox_events SET status = 'sent', sent_at = CURRENT_TIMESTAMP "
            "WHERE id IN (26, 27)",
        )
        maintenance = OutboxMaintenance(engine)
        first = await maintenance.delete_sent(older_than=3600.0, limit=10)
        assert first == Cleaned(deleted=9, go_on_after=10)
        second = await maintenance.delete_sent(older_than=3600.0, after=10, limit=10)
        assert second == Cleaned(deleted=10, go_on_after=20)
        last = await maintenance.delete_sent(older_than=3600.0, after=20, limit=10)
        assert last == Cleaned(deleted=5, go_on_after=30)
        end = await maintenance.delete_sent(older_than=3600.0, after=30, limit=10)
        assert end == Cleaned(deleted=0, go_on_after=0)
        left = await rows(engine, "SELECT id FROM jetstream_outbox_events ORDER BY id")
        assert [row[0] for row in left] == [7, *range(26, 31)]


async def test_a_purge_deletes_all_that_is_old_and_tells_how_far_it_is(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill(engine, 25, resources=3)
        await run(
            engine,
            "UPDATE jetstream_outbox_events SET status = 'sent', sent_at = '2020-01-01' "
            "WHERE id > 5",
        )
        maintenance = OutboxMaintenance(engine)
        assert [n async for n in maintenance.purging(older_than=3600.0, portion=10)] == [5, 10, 5]
        assert await maintenance.purge(older_than=3600.0) == 0
        assert await counts(engine) == {"pending": 5}


async def test_what_was_sent_late_or_failed_keeps_nothing_old(database_url: str) -> None:
    """Old events that were tried again today lie among, and before, what is past its retention."""
    async with database(database_url) as (engine, _):
        await fill(engine, 60, resources=3)
        await run(
            engine,
            "UPDATE jetstream_outbox_events SET enqueued_at = '2020-01-01', status = 'sent', "
            "sent_at = CASE WHEN id <= 15 OR id = 33 THEN CURRENT_TIMESTAMP ELSE '2020-01-02' END "
            "WHERE id <= 50",
        )
        failed = "UPDATE jetstream_outbox_events SET status = 'failed' WHERE id BETWEEN 16 AND 30"
        await run(engine, failed)
        maintenance = OutboxMaintenance(engine)
        portions = [n async for n in maintenance.purging(older_than=3600.0, portion=10)]
        assert portions == [0, 0, 0, 9, 10, 0], "and the rest is too young to be looked at"
        left = await rows(engine, "SELECT id FROM jetstream_outbox_events ORDER BY id")
        assert [row[0] for row in left] == [*range(1, 31), 33, *range(51, 61)]


async def test_lanes_that_somebody_deleted_are_put_back(
    database_url: str, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    async with database(database_url) as (engine, sessions):
        await run(engine, "DELETE FROM jetstream_outbox_lanes WHERE lane <> 3")
        await fill(engine, 20, resources=20)
        async with relaying(config(broker.url), sessions, broker):
            await eventually(all_sent(engine, 20))
            lanes = await rows(engine, "SELECT lane FROM jetstream_outbox_lanes ORDER BY lane")
            assert [row[0] for row in lanes] == list(range(LANES))
        assert "lanes [0, 1, 2, 4, 5" in caplog.text
        assert await OutboxMaintenance(engine).restore_lanes() == 0


async def test_followers_of_a_row_that_somebody_deleted_are_freed(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill(engine, 3, resources=1)
        known = await ids(engine)
        waits = Settlement(
            retries=[Retry(known["e0"], 1, "x", 3600.0)], held=[known["e1"], known["e2"]]
        )
        await settle(engine, waits)
        maintenance = OutboxMaintenance(engine)
        assert await maintenance.release_orphans() == 0
        async with engine.begin() as connection:
            await connection.execute(
                text("DELETE FROM jetstream_outbox_events WHERE event_id = 'e0'")
            )
        assert await maintenance.release_orphans() == 1
        assert await ready(engine) == ["e1", "e2"]


async def test_a_running_relay_cleans_up_by_itself_and_survives_a_fault(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broker_of("mock") as broker, database(sqlite_url) as (engine, sessions):
        await fill(engine, 6, resources=2)
        await run(
            engine,
            "UPDATE jetstream_outbox_events SET status = 'sent', sent_at = '2020-01-01' "
            "WHERE id <= 4",
        )
        bridge = relaying(config(broker.url), sessions, broker)
        clean, faults = bridge.outbox_maintenance.delete_sent, iter([OSError("gone")])

        async def delete_sent(**arguments: Any) -> Cleaned:
            for fault in faults:
                raise fault
            return await clean(**arguments)

        monkeypatch.setattr(bridge.outbox_maintenance, "delete_sent", delete_sent)
        async with bridge:
            await eventually(lambda: bridge.checks()["relay"].ok, what="the relay works")
            await broker.passes(2 * MAINTENANCE_EVERY + 1)
            await eventually(settled(engine, sent=2), what="the old rows are gone")
            assert bridge.checks()["relay"].ok
