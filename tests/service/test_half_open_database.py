"""A database that says nothing more: every wait ends, and all goes on when it is back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel.ext.asyncio.session import AsyncSession

from app.settings import ROOT
from jetstream_bridge import Consumers, Event
from jetstream_bridge.core.database_faults import DATABASE_ERRORS, Fault, fault_of
from jetstream_bridge.service import postgres as postgres_connections
from jetstream_bridge.service.database import create_engine, open_database
from jetstream_bridge.service.postgres import Limits
from jetstream_bridge.service.runtime import running
from jetstream_bridge.service.schema import migrate
from jetstream_bridge.testing.postgres import PostgresServer
from jetstream_bridge.testing.servers import NatsServer
from tests.apps import make_app
from tests.passage import Passage
from tests.service.conftest import MakeSettings, serving
from tests.waiting import eventually

pytestmark = pytest.mark.real

LIMITS = Limits(statement=1.0, lock=0.5, idle_transaction=5.0)
# Whatever is asked, the longest way: a ping, a new connection, a statement, its cancellation.
ENDS_WITHIN = 20.0  # seconds; without limits it is for ever


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_connections, "CONNECT_TIMEOUT", 1.0)
    monkeypatch.setattr(postgres_connections, "PING_LIMIT", 0.3)
    monkeypatch.setattr(postgres_connections, "CANCEL_LIMIT", 0.3)
    monkeypatch.setattr(postgres_connections, "ANSWER_MARGIN", 0.3)


@pytest.fixture
async def passage(postgres_url: str) -> AsyncIterator[Passage]:
    async with Passage(postgres_url) as passage:
        yield passage


@pytest.fixture
async def engine(passage: Passage) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(passage.url, pool_size=5, limits=LIMITS)
    yield engine
    await engine.dispose()


async def _ask(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT 1"))).scalar_one())


async def test_a_statement_under_way_ends_and_its_fault_is_the_database_s(
    engine: AsyncEngine, passage: Passage
) -> None:
    async def work() -> None:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT 1"))
            passage.freeze()
            await connection.execute(text("SELECT 1"))

    with pytest.raises(DATABASE_ERRORS) as raised:
        await asyncio.wait_for(work(), ENDS_WITHIN)

    assert fault_of(raised.value) in (Fault.AWAY, Fault.UNCLEAR)


async def test_leaving_a_transaction_after_a_cancellation_ends(
    engine: AsyncEngine, passage: Passage
) -> None:
    async def work() -> None:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT 1"))
            passage.freeze()
            await connection.execute(text("SELECT pg_sleep(60)"))

    task = asyncio.create_task(work())
    await eventually(lambda: not passage.is_open)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=ENDS_WITHIN)

    assert done


async def test_connections_that_died_in_the_pool_cost_nobody_a_request(
    engine: AsyncEngine, passage: Passage
) -> None:
    held = [await engine.connect() for _ in range(5)]
    for connection in held:
        await connection.execute(text("SELECT 1"))
        await connection.close()
    passage.freeze()
    passage.thaw()

    async with asyncio.timeout(ENDS_WITHIN):
        assert await asyncio.gather(*(_ask(engine) for _ in range(5))) == [1] * 5


async def test_a_connection_that_cannot_be_made_is_given_up(
    engine: AsyncEngine, passage: Passage
) -> None:
    passage.freeze()
    with pytest.raises(DATABASE_ERRORS):
        async with asyncio.timeout(ENDS_WITHIN):
            await _ask(engine)
    passage.thaw()

    assert await _ask(engine) == 1


async def test_a_frozen_server_is_given_up_too(
    engine: AsyncEngine, postgres: PostgresServer
) -> None:
    async with engine.connect() as connection:
        pid = int((await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one())
    with _frozen(pid):
        assert await asyncio.wait_for(_ask(engine), ENDS_WITHIN) == 1


async def test_closing_the_pool_ends(engine: AsyncEngine, passage: Passage) -> None:
    await _ask(engine)
    passage.freeze()
    await asyncio.wait_for(engine.dispose(), ENDS_WITHIN)


async def test_the_server_ends_what_takes_too_long_or_waits_for_a_lock(
    engine: AsyncEngine, postgres_url: str
) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE things (id int)"))

    async def sleep() -> None:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_sleep(60)"))

    async def wait() -> None:
        async with engine.begin() as holder, engine.begin() as waiter:
            await holder.execute(text("LOCK TABLE things"))
            await waiter.execute(text("LOCK TABLE things"))

    with pytest.raises(DATABASE_ERRORS) as slow:
        await sleep()
    with pytest.raises(DATABASE_ERRORS) as locked:
        await wait()

    assert "statement timeout" in str(slow.value)
    assert fault_of(slow.value) is Fault.UNCLEAR
    assert fault_of(locked.value) is Fault.BUSY


async def test_a_migration_may_take_as_long_as_it_takes(postgres_url: str) -> None:
    engine = create_engine(postgres_url)
    async with engine.connect() as connection:
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            assert (await connection.execute(text(f"SHOW {name}"))).scalar_one() == "0"
    await engine.dispose()


async def test_the_settings_are_what_the_server_is_told(
    postgres_url: str, make_settings: MakeSettings
) -> None:
    settings = make_settings(
        database_url=postgres_url,
        database_statement_timeout="7s",
        database_lock_timeout="3s",
        handler_timeout="1m",
    )
    database = open_database(settings)
    async with database.engine.connect() as connection:
        told = [
            (await connection.execute(text(f"SHOW {name}"))).scalar_one()
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        ]
    await database.close()

    assert told == ["7s", "3s", "90s"]


async def test_requests_end_with_503_and_are_served_again_when_the_network_is_back(
    passage: Passage, make_settings: MakeSettings
) -> None:
    await asyncio.to_thread(migrate, ROOT, passage.url)
    settings = make_settings(
        database_url=passage.url, database_statement_timeout="1s", database_lock_timeout="1s"
    )
    async with serving(make_app(settings)) as client:
        assert (await client.get("/customers")).status_code == 200
        passage.freeze()
        async with asyncio.timeout(2 * ENDS_WITHIN):
            answers = await asyncio.gather(
                client.get("/customers"),
                client.post("/customers", json={"name": "Ada", "email": "ada@example.com"}),
            )
        assert [answer.status_code for answer in answers] == [503, 503]
        assert all("Retry-After" in answer.headers for answer in answers)
        assert (await client.get("/readyz")).status_code == 503
        passage.thaw()

        async def served() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await eventually(served, limit=30)
        assert (await client.get("/customers")).status_code == 200
        assert (await client.get("/healthz")).status_code == 200


async def test_relay_and_worker_say_so_and_go_on_when_the_network_is_back(
    passage: Passage, make_settings: MakeSettings, nats_server: NatsServer
) -> None:
    await asyncio.to_thread(migrate, ROOT, passage.url)
    handled: list[str] = []
    consumers = Consumers()

    @consumers.on("thing.made")
    async def handle(event: Event[dict[str, str]], session: AsyncSession) -> None:
        await session.exec(text("SELECT 1"))  # type: ignore[call-overload]
        handled.append(event.payload["id"])

    quick = {"database_statement_timeout": "1s", "database_lock_timeout": "1s"}
    one = make_settings(database_url=passage.url, nats_urls=nats_server.url, **quick)
    two = one.model_copy(update={"app_name": "billing", "destination_app": "orders"})
    async with running(one, relay=True) as here, running(two, consumers=consumers) as there:

        async def publish(number: str) -> None:
            async with here.database.sessions() as session:
                await here.bridge.publisher(session).publish("thing.made", {"id": number})
                await session.commit()

        def well() -> bool:
            checks = [*here.bridge.checks().values(), *there.bridge.checks().values()]
            return all(check.ok for check in checks)

        await eventually(well, limit=20)
        await publish("1")
        await eventually(lambda: handled == ["1"], limit=20)
        passage.freeze()
        await eventually(lambda: not here.bridge.checks()["relay"].ok, limit=ENDS_WITHIN)
        assert not (await there.health.checks())["database"].ok
        passage.thaw()
        await eventually(lambda: here.bridge.checks()["relay"].ok, limit=ENDS_WITHIN)
        await publish("2")
        await eventually(lambda: handled == ["1", "2"], limit=ENDS_WITHIN)
        await eventually(well, limit=ENDS_WITHIN)
        assert here.health.failures() == there.health.failures() == []


@contextmanager
def _frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
