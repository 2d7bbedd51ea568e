"""One active worker: who has the lease works, who lost it stops, and the next one takes over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge.core.leases import (
    LEASE_SECONDS,
    RENEW_SECONDS,
    Fence,
    LeaseHolder,
    LeaseLostError,
)
from jetstream_bridge.inbox.exclusive_worker import ExclusiveWorker
from jetstream_bridge.testing import VirtualClock
from tests.bridge.support import database
from tests.waiting import eventually


class Worker:
    """What `ExclusiveWorker` asks of a worker."""

    def __init__(self, fence: Fence | None = None) -> None:
        self.fence = fence
        self.durable = type("Durable", (), {"name": "c"})()
        self.problem: str | None = None
        self.failure: BaseException | None = None
        self.lost_lease = asyncio.Event()
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        await self.stopped.wait()

    async def stop(self, grace: float) -> None:
        self.stopped.set()


class Workers:
    """Workers of one lease, and the workers that each made."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.workers: list[Worker] = []

    def worker(self, lease: LeaseHolder | None) -> ExclusiveWorker:
        def make(fence: Fence | None) -> Any:
            self.workers.append(Worker(fence))
            return self.workers[-1]

        return ExclusiveWorker(make, lease)

    def exclusive(self) -> ExclusiveWorker:
        return self.worker(LeaseHolder(self.engine, "workers"))


@pytest.fixture
async def made(sqlite_url: str, clock: VirtualClock) -> AsyncIterator[Workers]:
    async with database(sqlite_url) as (engine, _):
        yield Workers(engine)


async def test_without_a_lease_it_works_at_once(made: Workers) -> None:
    worker = made.worker(None)
    assert (worker.problem, worker.failure) == ("not started", None)
    running = asyncio.create_task(worker.run())
    await eventually(lambda: worker.problem is None)
    await worker.stop(1)
    await running


async def test_the_second_stands_by_and_takes_over_when_the_first_stops(
    made: Workers, clock: VirtualClock
) -> None:
    first, second = made.exclusive(), made.exclusive()
    running = [asyncio.create_task(first.run())]
    await eventually(lambda: len(made.workers) == 1)
    running.append(asyncio.create_task(second.run()))
    await clock.advance(2 * LEASE_SECONDS)
    assert (first.standby, second.standby) == (False, True)
    assert second.problem is None
    assert len(made.workers) == 1
    await first.stop(1)
    await eventually(lambda: len(made.workers) == 2, limit=RENEW_SECONDS + 1)
    assert not second.standby
    await second.stop(1)
    await asyncio.gather(*running)


async def test_who_lost_the_lease_stops_working_and_stands_by(
    made: Workers, clock: VirtualClock
) -> None:
    worker = made.exclusive()
    running = asyncio.create_task(worker.run())
    await eventually(lambda: len(made.workers) == 1)
    async with made.engine.begin() as connection:
        await connection.execute(text("UPDATE jetstream_leases SET holder = 'another'"))
    await eventually(made.workers[0].stopped.is_set, limit=2 * RENEW_SECONDS)
    await eventually(lambda: worker.standby)
    await eventually(lambda: len(made.workers) == 2, limit=2 * LEASE_SECONDS)  # it ran out
    await worker.stop(1)
    await running


async def test_a_worker_that_was_refused_is_followed_by_a_new_one_though_the_lease_is_free(
    made: Workers,
) -> None:
    worker = made.exclusive()
    running = asyncio.create_task(worker.run())
    await eventually(lambda: len(made.workers) == 1)
    made.workers[0].lost_lease.set()
    await eventually(lambda: len(made.workers) == 2, limit=2 * RENEW_SECONDS)
    assert made.workers[0].stopped.is_set()
    assert not worker.standby
    await worker.stop(1)
    await running


async def test_a_lease_that_cannot_be_asked_for_is_not_held(
    made: Workers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lease = LeaseHolder(made.engine, "workers")
    worker = made.worker(lease)

    async def fail() -> bool:
        raise OperationalError("select", {}, Exception("gone"))

    monkeypatch.setattr(lease, "acquire", fail)
    monkeypatch.setattr(lease, "release", fail)
    running = asyncio.create_task(worker.run())
    await eventually(lambda: worker.standby)
    assert "the lease workers is unknown: OperationalError" in caplog.text
    assert made.workers == []
    await worker.stop(1)
    assert "the lease ends by the clock: OperationalError" in caplog.text
    await running


async def test_a_writer_whose_lease_was_taken_is_told_before_it_commits(
    database_url: str,
) -> None:
    async with database(database_url) as (engine, _):
        lease = LeaseHolder(engine, "workers")
        assert await lease.acquire()
        fence = lease.fence
        async with engine.begin() as connection:
            await connection.run_sync(fence.check)
            await connection.execute(text("UPDATE jetstream_leases SET holder = 'another'"))
            with pytest.raises(LeaseLostError, match="'workers' is held by another worker"):
                await connection.run_sync(fence.check)


async def test_what_a_term_left_behind_is_refused_in_the_next_term_of_the_same_process(
    database_url: str,
) -> None:
    async with database(database_url) as (engine, _):
        lease = LeaseHolder(engine, "workers")
        assert await lease.acquire()
        before = lease.fence
        await lease.release()
        assert await lease.acquire()
        async with engine.begin() as connection:
            await connection.run_sync(lease.fence.check)
            with pytest.raises(LeaseLostError):
                await connection.run_sync(before.check)


async def test_the_lease_changes_hands_while_transactions_under_it_are_open(
    postgres_url: str,
) -> None:
    """A process that froze amid a handler keeps no lock that a renewal or a take-over waits for."""
    async with database(postgres_url) as (engine, sessions):
        first, second = LeaseHolder(engine, "workers"), LeaseHolder(engine, "workers")
        assert await first.acquire()
        async with sessions() as session:
            connection = await session.connection()
            await connection.run_sync(first.fence.check)
            async with asyncio.timeout(5):
                assert await first.acquire()
                await connection.run_sync(first.fence.check)
                async with engine.begin() as other:
                    await other.execute(text("UPDATE jetstream_leases SET expires_at = now()"))
                assert await second.acquire()
            with pytest.raises(LeaseLostError):
                await connection.run_sync(first.fence.check)


async def test_on_sqlite_a_transaction_that_outlasts_its_lease_keeps_it(sqlite_url: str) -> None:
    async with database(sqlite_url) as (engine, _):
        first = LeaseHolder(engine, "workers")
        second = LeaseHolder(engine, "workers")
        assert await first.acquire()
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE jetstream_leases SET expires_at = '2020-01-01'"))
            await connection.run_sync(first.fence.check)
        assert not await second.acquire()
