"""What is not an event's fault counts no try: it is waited out, and readiness says so meanwhile."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import AsyncExitStack

import asyncpg
import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import Bridge, Consumers, Event
from jetstream_bridge.core.errors import (
    NotConnectedError,
    PublishRefusedError,
    PublishUnavailableError,
)
from jetstream_bridge.testing.postgres import PostgresServer
from tests.bridge.consuming import Change, Service, insert, letter, recording, service_on
from tests.bridge.support import config
from tests.brokers import Broker
from tests.waiting import eventually


def _postgres(state: str) -> Exception:
    orig = asyncpg.PostgresError.new({"C": state, "M": "said the server", "S": "ERROR"})
    return DBAPIError("UPDATE x", {}, orig)


def _sqlite(code: int) -> Exception:
    orig = sqlite3.OperationalError("said SQLite")
    orig.sqlite_errorcode = code
    return OperationalError("UPDATE x", {}, orig)


def _wrapped(error: Exception) -> Exception:
    """As a handler's own code tells it."""
    own = RuntimeError("the order could not be saved")
    own.__cause__ = error
    return own


NOT_THE_EVENTS: dict[str, Callable[[], Exception]] = {
    "serialization_failure": lambda: _postgres("40001"),
    "deadlock_detected": lambda: _postgres("40P01"),
    "lock_not_available": lambda: _postgres("55P03"),
    "read_only_sql_transaction": lambda: _postgres("25006"),
    "disk_full": lambda: _postgres("53100"),
    "too_many_connections": lambda: _postgres("53300"),
    "admin_shutdown": lambda: _postgres("57P01"),
    "cannot_connect_now": lambda: _postgres("57P03"),
    "idle_in_transaction_session_timeout": lambda: _postgres("25P03"),
    "insufficient_privilege": lambda: _postgres("42501"),
    "connection is closed": lambda: asyncpg.InterfaceError("connection is closed"),
    "the pool is empty": lambda: PoolTimeoutError("QueuePool limit reached"),
    "SQLITE_BUSY": lambda: _sqlite(sqlite3.SQLITE_BUSY),
    "SQLITE_FULL": lambda: _sqlite(sqlite3.SQLITE_FULL),
    "SQLITE_READONLY": lambda: _sqlite(sqlite3.SQLITE_READONLY),
    "told by another error": lambda: _wrapped(_postgres("40001")),
    "not sent": lambda: PublishUnavailableError("nobody answers"),
    "not connected": lambda: NotConnectedError("no server"),
}
THE_EVENTS: dict[str, Callable[[], Exception]] = {
    "unique_violation": lambda: _postgres("23505"),
    "string too long": lambda: _postgres("22001"),
    "undefined_table, and nothing is pending": lambda: _postgres("42P01"),
    "query_canceled": lambda: _postgres("57014"),
    "refused by the stream": lambda: PublishRefusedError("too large"),
    "a time-out of another system": TimeoutError,
    "a connection to another system": lambda: ConnectionRefusedError("nobody listens"),
    "its own": lambda: ValueError("no"),
}


@pytest.mark.parametrize("broker", ["mock"], indirect=True)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("times", [1, 7])
async def test_what_is_not_the_events_fault_counts_no_try(service: Service, times: int) -> None:
    """Each error comes out of one event's handler, once, or so often that it is held back."""
    names = dict(enumerate(NOT_THE_EVENTS))
    left = dict.fromkeys(names, times)
    consumers = Consumers()
    deliveries: set[int] = set()

    @consumers.on("order.changed")
    async def handle(event: Event[Change], session: AsyncSession) -> None:
        n = event.payload.n
        deliveries.add(event.metadata.deliveries)
        await insert(session, n)
        if left.get(n):
            left[n] -= 1
            raise NOT_THE_EVENTS[names[n]]()

    number = len(names) + 5
    await service.send_many(number, resources=number)
    async with service.working(consumers, max_deliver=1) as bridge:
        await eventually(service.is_empty, limit=120)
        assert bridge.checks()["consumers"].ok
        assert bridge.failures() == []
    assert await service.dead_letters() == []
    assert sorted(await service.effects()) == list(range(number))
    assert deliveries == {1}, "it was in hand all the time"


@pytest.mark.parametrize("broker", ["mock"], indirect=True)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_is_the_events_fault_is_a_letter(service: Service) -> None:
    names = dict(enumerate(THE_EVENTS))
    consumers = Consumers()

    @consumers.on("order.changed")
    async def handle(event: Event[Change], session: AsyncSession) -> None:
        await insert(session, event.payload.n)
        if event.payload.n in names:
            raise THE_EVENTS[names[event.payload.n]]()

    number = len(names) + 5
    await service.send_many(number, resources=number)
    async with service.working(consumers, max_deliver=1) as bridge:
        await eventually(service.is_empty, limit=60)
        assert bridge.checks()["consumers"].ok
    letters = {letter(dead)["event_id"] for dead in await service.dead_letters()}
    assert letters == {f"e{n}" for n in names}
    assert sorted(await service.effects()) == list(range(len(names), number))


async def test_a_race_is_run_again_at_once(service: Service) -> None:
    consumers = Consumers()
    runs: list[float] = []

    @consumers.on("order.changed")
    async def handle(event: Event[Change], session: AsyncSession) -> None:
        runs.append(asyncio.get_running_loop().time())
        await insert(session, event.payload.n)
        if len(runs) < 4:
            raise _postgres("40001")

    await service.send_many(1, resources=1)
    async with service.working(consumers, max_deliver=1, backoff=(30.0,)):
        await eventually(service.is_empty)
    assert len(runs) == 4
    assert await service.effects() == [0]


async def test_followers_of_an_event_that_waits_for_something_busy_wait_with_it(
    service: Service,
) -> None:
    consumers = Consumers()
    done: list[int] = []
    left = 8

    @consumers.on("order.changed")
    async def handle(event: Event[Change]) -> None:
        nonlocal left
        if event.payload.n == 0 and left:
            left -= 1
            raise _postgres("55P03")
        done.append(event.payload.n)

    await service.send_many(20, resources=2)
    async with service.working(consumers, max_deliver=1, backoff=(0.05,)):
        await eventually(service.is_empty)
    # A batch may have been run together before it failed; what counts is the last run of each.
    last = {n: place for place, n in enumerate(done)}
    even = [n for n in sorted(last, key=last.__getitem__) if n % 2 == 0]
    assert even == list(range(0, 20, 2))


@pytest.mark.parametrize("what", ["the claim", "the commit", "the record"])
async def test_a_database_that_is_well_again_before_it_is_asked_burns_no_try(
    service: Service, what: str
) -> None:
    marks = {"the claim": "INSERT INTO jetstream_inbox", "the commit": "INSERT INTO effect"}
    consumers = recording()
    left = 3

    def refuse(_c: object, _cursor: object, statement: str, *_: object) -> None:
        nonlocal left
        mark = marks.get(what, "ON CONFLICT (consumer, event_id) DO UPDATE")
        if left and mark in statement:
            left -= 1
            raise OperationalError(statement, {}, Exception("disk I/O error"))

    runs = 0
    if what == "the record":
        consumers = Consumers()

        @consumers.on("order.changed")
        async def handle(event: Event[Change], session: AsyncSession) -> None:
            nonlocal runs
            runs += 1
            await insert(session, event.payload.n)
            if runs == 1:
                raise ValueError("a failure of its own, that cannot be noted")

    sqlalchemy_event.listen(service.engine.sync_engine, "before_cursor_execute", refuse)
    await service.send_many(3, resources=3)
    async with service.working(consumers, max_deliver=2 if what == "the record" else 1) as bridge:
        await eventually(service.is_empty, limit=30)
        assert bridge.failures() == []
    assert await service.dead_letters() == []
    assert sorted(await service.effects()) == [0, 1, 2]


async def test_nothing_is_pulled_before_the_migrations_are_there(
    broker: Broker, database_url: str
) -> None:
    async with service_on(database_url, broker) as service:
        await service.send_many(5, resources=5)
        pending = ["bridge_0002"]

        async def ask() -> list[str]:
            return pending

        settings = config(broker.url, app="billing", peer="orders", max_deliver=1)
        bridge = Bridge(
            settings,
            service.sessions,
            consumers=recording(),
            pending_migrations=ask,
            make_client=broker.make_client,
        )

        def detail() -> str:
            return bridge.checks()["consumers"].detail or ""

        async with bridge:
            await eventually(lambda: "migrations are not applied: bridge_0002" in detail())
            await eventually(lambda: bridge.topology.problem is None)
            await broker.passes(1.0)
            delivered = (await service.info()).delivered
            assert delivered is not None and delivered.consumer_seq == 0
            pending.clear()
            await eventually(service.is_empty)
            assert bridge.checks()["consumers"].ok
        assert sorted(await service.effects()) == list(range(5))


async def test_a_missing_column_is_the_events_fault_only_when_no_migration_is_pending(
    broker: Broker, database_url: str
) -> None:
    async with service_on(database_url, broker) as service:
        pending: list[str] = []
        consumers = Consumers()

        async def ask() -> list[str]:
            return pending

        @consumers.on("order.changed")
        async def handle(event: Event[Change], session: AsyncSession) -> None:
            connection = await session.connection()
            await connection.execute(text("INSERT INTO later (n) VALUES (1)"))

        bridge = Bridge(
            config(broker.url, app="billing", peer="orders", max_deliver=1),
            service.sessions,
            consumers=consumers,
            pending_migrations=ask,
            make_client=broker.make_client,
        )
        async with bridge:
            await eventually(lambda: bridge.checks()["consumers"].ok)
            pending.append("0003")
            await service.send_many(3, resources=3)
            await eventually(lambda: "0003" in (bridge.checks()["consumers"].detail or ""))
            assert await service.dead_letters() == []
            async with service.engine.begin() as connection:
                await connection.execute(text("CREATE TABLE later (n int)"))
            pending.clear()
            await eventually(service.is_empty)
            async with service.engine.begin() as connection:
                await connection.execute(text("DROP TABLE later"))
            await service.send_many(1, resources=1, start=9)
            await eventually(service.dead_letters)
        [dead] = await service.dead_letters()
        assert letter(dead)["event_id"] == "e9"


async def test_a_migration_that_is_applied_before_it_is_asked_for_makes_no_dead_letter(
    broker: Broker, postgres_url: str
) -> None:
    """An event lacked its table; when its failure is looked at, no migration is pending any more.

    Another one noticed meanwhile that one was.
    """
    async with service_on(postgres_url, broker) as service:
        pending: list[str] = []
        consumers = Consumers()
        failed, applied = asyncio.Event(), asyncio.Event()

        async def ask() -> list[str]:
            return pending

        @consumers.on("order.changed", isolated=True)
        async def handle(event: Event[Change], session: AsyncSession) -> None:
            connection = await session.connection()
            try:
                await connection.execute(text("INSERT INTO later (n) VALUES (1)"))
            except DBAPIError:
                if event.payload.n == 0:
                    failed.set()
                    await applied.wait()
                await failed.wait()
                raise

        bridge = Bridge(
            config(broker.url, app="billing", peer="orders", max_deliver=1),
            service.sessions,
            consumers=consumers,
            pending_migrations=ask,
            make_client=broker.make_client,
        )
        async with bridge:
            await eventually(lambda: bridge.checks()["consumers"].ok)
            pending.append("0003")
            await service.send_many(2, resources=2)
            await eventually(lambda: "0003" in (bridge.checks()["consumers"].detail or ""))
            async with service.engine.begin() as connection:
                await connection.execute(text("CREATE TABLE later (n int)"))
            pending.clear()
            applied.set()
            await eventually(service.is_empty)
        assert await service.dead_letters() == []


async def test_a_database_set_to_read_only_makes_no_dead_letter(
    broker: Broker, postgres: PostgresServer, postgres_url: str
) -> None:
    name = postgres_url.partition("?")[0].rpartition("/")[2]

    def set_read_only(state: str) -> None:
        postgres.run(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {state}')
        postgres.run(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )

    async with service_on(postgres_url, broker) as service:
        async with service.working(recording(), max_deliver=1) as bridge:
            await service.send_many(100, resources=10)
            set_read_only("on")
            await service.send_many(100, resources=10, start=100)

            def says_so() -> bool:
                check = bridge.checks()["consumers"]
                return not check.ok and "read-only transaction" in (check.detail or "")

            await eventually(says_so, limit=20)
            await broker.passes(2.0)
            assert says_so(), "it does not come and go while the fault lasts"
            set_read_only("off")
            await eventually(service.is_empty, limit=30)
            assert bridge.checks()["consumers"].ok
            assert bridge.failures() == []
        assert await service.dead_letters() == []
        assert sorted(await service.effects()) == list(range(200))


async def test_sessions_that_the_server_ends_and_locks_that_others_hold_burn_no_try(
    broker: Broker, postgres_url: str
) -> None:
    consumers = Consumers()
    ended = 0

    @consumers.on("order.changed")
    async def handle(event: Event[Change], session: AsyncSession) -> None:
        nonlocal ended
        connection = await session.connection()
        await insert(session, event.payload.n)
        if event.payload.n % 10 == 3 and ended < 3:
            ended += 1
            await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        if event.payload.n % 10 == 7:
            await connection.execute(text("SET LOCAL lock_timeout = '20ms'"))
            await connection.execute(text("UPDATE shelf SET n = n + 1"))

    async with service_on(postgres_url, broker) as service:
        async with service.engine.begin() as connection:
            await connection.execute(text("CREATE TABLE shelf (n int)"))
            await connection.execute(text("INSERT INTO shelf VALUES (0)"))
        await service.send_many(40, resources=40)
        async with AsyncExitStack() as worker:
            # The lock comes first: a worker that is quick has done with all of them otherwise.
            async with service.engine.begin() as connection:
                await connection.execute(text("UPDATE shelf SET n = n"))
                await worker.enter_async_context(
                    service.working(consumers, max_deliver=1, backoff=(0.1,))
                )
                others = {n for n in range(40) if n % 10 != 7}

                async def handled() -> bool:
                    return set(await service.effects()) == others

                await eventually(handled, limit=20, what="those that need no lock are handled")
            await eventually(service.is_empty, limit=20)
        assert ended == 3
        assert await service.dead_letters() == []
        assert sorted(await service.effects()) == list(range(40))


async def test_deadlocks_of_handlers_burn_no_try(broker: Broker, postgres_url: str) -> None:
    consumers = Consumers()

    @consumers.on("order.changed", isolated=True)
    async def handle(event: Event[Change], session: AsyncSession) -> None:
        first, second = (1, 2) if event.payload.n % 2 else (2, 1)
        connection = await session.connection()
        for place in (first, second):
            await connection.execute(
                text("UPDATE shelf SET n = n + 1 WHERE place = :place"), {"place": place}
            )
            await asyncio.sleep(0.01)  # the work of this handler
        await insert(session, event.payload.n)

    async with service_on(postgres_url, broker) as service:
        async with service.engine.begin() as connection:
            await connection.execute(text("CREATE TABLE shelf (place int PRIMARY KEY, n int)"))
            await connection.execute(text("INSERT INTO shelf VALUES (1, 0), (2, 0)"))
            name = service.engine.url.database
            await connection.execute(text(f'ALTER DATABASE "{name}" SET deadlock_timeout = 20'))
        await service.engine.dispose()
        await service.send_many(30, resources=30)
        async with service.working(consumers, max_deliver=1, worker_concurrency=4):
            await eventually(service.is_empty, limit=40)
        assert await service.dead_letters() == []
        assert sorted(await service.effects()) == list(range(30))


async def test_a_letter_that_cannot_be_written_waits_for_nats(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its event failed for good, and is not run again meanwhile."""
    consumers = Consumers()
    runs = 0

    @consumers.on("order.changed")
    async def handle(event: Event[Change]) -> None:
        nonlocal runs
        runs += 1
        raise ValueError("no")

    await service.send_many(1, resources=1)
    bridge = service.bridge(consumers, max_deliver=2, backoff=(0.05,))
    write = bridge.acks.publish_one
    left = 3

    async def away(message: object, **options: object) -> None:
        nonlocal left
        if left:
            left -= 1
            raise NotConnectedError("no server answers")
        await write(message, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(bridge.acks, "publish_one", away)
    async with bridge:
        await eventually(service.dead_letters, limit=20)
        await eventually(service.is_empty)
    assert (runs, left) == (2, 0)
