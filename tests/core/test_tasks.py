"""A background task that dies is started again, and told about until it runs."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator

import asyncpg
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import event, text
from sqlalchemy.exc import SQLAlchemyError

from jetstream_bridge import Bridge
from jetstream_bridge.core.tasks import KEEPS_DYING, RESTART_MAX, STABLE_AFTER, Tasks
from jetstream_bridge.outbox.wakeup import listen
from jetstream_bridge.service.database import create_engine
from jetstream_bridge.testing import VirtualClock
from jetstream_bridge.testing.postgres import PostgresServer
from tests.bridge.support import config, database, scalar
from tests.waiting import eventually


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    tasks = Tasks()
    yield tasks
    await tasks.cancel()


class Work:
    """Dies as often as it is told to, then runs."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.starts = 0

    async def __call__(self) -> None:
        self.starts += 1
        if self.errors:
            raise self.errors.pop(0)
        await asyncio.Event().wait()


async def test_a_task_that_died_once_is_told_until_it_runs_again(
    tasks: Tasks, clock: VirtualClock
) -> None:
    work = Work(ValueError("odd"))
    tasks.start("once", work)
    await eventually(lambda: work.starts == 1)
    assert tasks.failures() == ["once died: ValueError('odd')"]

    await clock.advance("1s")

    assert (work.starts, tasks.failures()) == (2, [])
    assert REGISTRY.get_sample_value("bridge_task_deaths_total", {"task": "once"}) == 1


async def test_a_task_that_keeps_dying_is_told_until_it_ran_for_a_while(
    tasks: Tasks, clock: VirtualClock
) -> None:
    work = Work(*[ValueError("odd")] * KEEPS_DYING)
    tasks.start("often", work)
    await clock.advance(10)
    assert work.starts == KEEPS_DYING + 1
    assert tasks.failures() == [f"often died {KEEPS_DYING} times in a row: ValueError('odd')"]

    await clock.advance(STABLE_AFTER)

    assert tasks.failures() == []


async def test_pauses_between_starts_grow_to_a_limit(tasks: Tasks, clock: VirtualClock) -> None:
    work = Work(*[ValueError("odd")] * 1000)
    tasks.start("always", work)
    await clock.advance(20 * RESTART_MAX)

    assert 20 <= work.starts <= 60


async def test_a_cancellation_of_its_own_making_is_a_death(
    tasks: Tasks, clock: VirtualClock
) -> None:
    work = Work(asyncio.CancelledError())
    tasks.start("cancelled", work)
    await clock.advance("1s")

    assert work.starts == 2


async def test_a_task_that_returned_or_was_stopped_is_no_failure(clock: VirtualClock) -> None:
    tasks = Tasks()

    async def short() -> None: ...

    tasks.start("short", short)
    tasks.start("long", Work())
    await clock.advance("1s")
    await tasks.cancel()

    assert tasks.failures() == []


async def test_a_task_that_somebody_else_cancelled_is_told(tasks: Tasks) -> None:
    task = tasks.start("taken", Work())
    task.cancel()

    await eventually(tasks.failures)

    assert tasks.failures() == ["taken was cancelled by somebody who does not own it"]


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InternalClientError("got result for unknown protocol state 3"),
        asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
        sqlite3.OperationalError("disk I/O error"),
        SQLAlchemyError("whatever"),
        ConnectionResetError(),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_listening_outlives_every_error_that_a_database_can_raise(
    error: Exception, tasks: Tasks, clock: VirtualClock, sqlite_url: str
) -> None:
    engine = create_engine(sqlite_url)
    tries: list[Exception] = []

    @event.listens_for(engine.sync_engine, "do_connect")
    def refuse(*_: object) -> None:
        tries.append(error)
        raise error

    tasks.start("relay wake-up", lambda: listen(engine, lambda: None))
    await clock.advance("1m")
    await engine.dispose()

    assert tasks.failures() == []
    assert len(tries) > 3


@pytest.mark.parametrize("how", ["restart", "kill", "end the sessions"])
async def test_after_any_end_of_postgresql_no_task_is_dead_and_notifications_come_again(
    postgres: PostgresServer, postgres_url: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jetstream_bridge.outbox.wakeup.RECONNECT_AFTER", 0.1)
    # The end of the connection is noticed when it comes, and not at the next question.
    monkeypatch.setattr("jetstream_bridge.outbox.wakeup.CHECK_EVERY", 600.0)
    listeners = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN %'"
    async with database(postgres_url) as (engine, sessions):
        bridge = Bridge(config("nats://127.0.0.1:1"), sessions, relay=True)
        async with bridge:

            async def listening() -> bool:
                try:
                    return bool(await scalar(engine, listeners))
                except (SQLAlchemyError, OSError):
                    return False

            await eventually(listening)
            if how == "end the sessions":
                await asyncio.to_thread(
                    postgres.run,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
                )
            else:
                await asyncio.to_thread(postgres.kill if how == "kill" else postgres.terminate)
                await asyncio.to_thread(postgres.start)
            await eventually(listening, limit=20)
            assert bridge.failures() == []
            assert bridge.checks()["tasks"].ok
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
