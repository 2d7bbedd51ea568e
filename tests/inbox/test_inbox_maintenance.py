"""Clean-up of the inbox: only what was processed long ago goes."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge import Bridge, Consumers
from jetstream_bridge.bridge import CLEANUP_EVERY
from jetstream_bridge.inbox.maintenance import InboxMaintenance
from tests.bridge.support import config, database, rows
from tests.brokers import broker_of
from tests.outbox.test_lanes import run
from tests.waiting import eventually


async def received(engine: AsyncEngine, number: int, status: str, moment: str) -> None:
    await run(
        engine,
        "INSERT INTO jetstream_inbox_events (consumer, event_id, subject, status, processed_at) "
        f"VALUES ('c', 'e{number}', 's', '{status}', {moment})",
    )


async def test_inbox_rows_are_deleted_by_age_unless_they_need_somebody(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await received(engine, 1, "processed", "'2020-01-01'")
        await received(engine, 2, "processed", "CURRENT_TIMESTAMP")
        await received(engine, 3, "dead_lettered", "'2020-01-01'")
        await received(engine, 4, "failed", "NULL")
        assert await InboxMaintenance(engine).purge(older_than=3600.0) == 1
        left = await rows(engine, "SELECT event_id FROM jetstream_inbox_events ORDER BY id")
        assert [row[0] for row in left] == ["e2", "e3", "e4"]


async def test_a_purge_goes_portion_by_portion(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        for number in range(5):
            await received(engine, number, "processed", "'2020-01-01'")
        maintenance = InboxMaintenance(engine)
        assert [n async for n in maintenance.purging(older_than=3600.0, portion=2)] == [2, 2, 1]


async def test_a_running_worker_cleans_up_by_itself_and_survives_a_fault(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broker_of("mock") as broker, database(sqlite_url) as (engine, sessions):
        await received(engine, 1, "processed", "'2020-01-01'")
        bridge = Bridge(
            config(broker.url), sessions, consumers=Consumers(), make_client=broker.make_client
        )
        clean, faults = bridge.inbox_maintenance.purge, iter([OSError("gone")])

        async def purge(*, older_than: float) -> int:
            for fault in faults:
                raise fault
            return await clean(older_than=older_than)

        async def is_empty() -> bool:
            return not await rows(engine, "SELECT id FROM jetstream_inbox_events")

        monkeypatch.setattr(bridge.inbox_maintenance, "purge", purge)
        async with bridge:
            await broker.passes(2 * CLEANUP_EVERY + 1)
            await eventually(is_empty, what="the old row is gone")
            assert bridge.failures() == []
