"""Acknowledged means committed: whatever a handler does to the worker's transaction."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import Consumers, Event, Publisher
from jetstream_bridge.core.leases import Lease
from tests.bridge.consuming import Change, Service, insert, letter
from tests.bridge.support import database, rows, statements
from tests.waiting import eventually

Deed = Callable[[AsyncSession], Awaitable[object]]

TAKEN = 9999  # a number that is in the table already


async def _sql(session: AsyncSession, statement: str) -> None:
    await (await session.connection()).execute(text(statement))


async def _swallow(session: AsyncSession) -> None:
    with suppress(IntegrityError):
        await insert(session, TAKEN)


async def _go_on(session: AsyncSession) -> None:
    await _swallow(session)
    await insert(session, 7002)  # refused, since the transaction is aborted


async def _swallow_in_flush(session: AsyncSession) -> None:
    session.add(Lease(name="taken", holder="x", expires_at=datetime.now(UTC)))
    with suppress(IntegrityError):
        await session.flush()


async def _swallow_beneath(session: AsyncSession) -> None:
    """Through the driver, where SQLAlchemy hears nothing of it."""
    connection = await session.connection()
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    with suppress(Exception):
        await driver.execute(f"INSERT INTO effect (n) VALUES ({TAKEN})")


async def _beneath(session: AsyncSession, statement: str) -> None:
    connection = await session.connection()
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    await driver.execute(statement)


async def _as_context(session: AsyncSession) -> None:
    async with session:
        await insert(session, 7000)


async def _connections(session: AsyncSession, how: str) -> None:
    await getattr(await session.connection(), how)()


async def _swallowing(session: AsyncSession, deed: Deed) -> None:
    """Whoever catches everything is no more right for it."""
    with suppress(Exception):
        await deed(session)


async def _begun_anew(session: AsyncSession) -> None:
    await session.close()
    await session.begin()
    await insert(session, 7001)


DEEDS: dict[str, Deed] = {
    "commit": lambda s: s.commit(),
    "commit, caught": lambda s: _swallowing(s, lambda s: s.commit()),
    "rollback": lambda s: s.rollback(),
    "close": lambda s: s.close(),
    "reset": lambda s: s.reset(),
    "invalidate": lambda s: s.invalidate(),
    "async with": _as_context,
    "begun anew": _begun_anew,
    "ROLLBACK": lambda s: _sql(s, "ROLLBACK"),
    "ROLLBACK, caught": lambda s: _swallowing(s, lambda s: _sql(s, "ROLLBACK")),
    "COMMIT": lambda s: _sql(s, " -- now\n COMMIT"),
    "COMMIT, caught": lambda s: _swallowing(s, lambda s: _sql(s, "commit")),
    "END": lambda s: _sql(s, "/* so */ END"),
    "connection.commit": lambda s: _connections(s, "commit"),
    "connection.commit, caught": lambda s: _swallowing(s, lambda s: _connections(s, "commit")),
    "connection.rollback": lambda s: _connections(s, "rollback"),
    "connection.close": lambda s: _connections(s, "close"),
    "ROLLBACK beneath": lambda s: _beneath(s, "ROLLBACK"),
    "swallowed in a flush": _swallow_in_flush,
}
# SQLite goes on after an error of a statement, and so may its handlers.
POSTGRES_DEEDS: dict[str, Deed] = {
    "swallowed": _swallow,
    "swallowed, and went on": _go_on,
    "swallowed beneath": _swallow_beneath,
    "anew beneath": lambda s: _beneath(s, "ROLLBACK; BEGIN"),
}


async def _prepare(service: Service) -> dict[int, str]:
    """What the guilty events do, by number; sound events stand between them."""
    async with service.engine.begin() as connection:
        await connection.execute(text("INSERT INTO effect (n) VALUES (:n)"), {"n": TAKEN})
        await connection.execute(
            text("INSERT INTO jetstream_leases VALUES ('taken', 'x', '2030-01-01 00:00:00+00')")
        )
    on_postgres = service.engine.dialect.name == "postgresql"
    names = [*DEEDS, *(POSTGRES_DEEDS if on_postgres else ())]
    return {2 + 4 * place: name for place, name in enumerate(names)}


@pytest.mark.parametrize("use_inbox", [True, False], ids=["inbox", "no inbox"])
async def test_what_a_handler_does_to_the_transaction_harms_itself_only(
    service: Service, use_inbox: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    guilty = await _prepare(service)
    if not use_inbox:  # without the rows of a claim there is nothing that tells these two apart
        guilty = {n: name for n, name in guilty.items() if name != "anew beneath"}
    consumers = Consumers()

    @consumers.on("order.changed")
    async def handle(event: Event[Change], session: AsyncSession) -> None:
        await insert(session, event.payload.n)
        if (name := guilty.get(event.payload.n)) is not None:
            await (DEEDS | POSTGRES_DEEDS)[name](session)

    number = max(guilty) + 4
    await service.send_many(number, resources=number)
    async with service.working(consumers, max_deliver=1, use_inbox=use_inbox):
        await eventually(service.is_empty, limit=30)
    letters = {letter(dead)["event_id"]: letter(dead) for dead in await service.dead_letters()}
    assert sorted(letters) == sorted(f"e{n}" for n in guilty)
    sound = [n for n in range(number) if n not in guilty]
    assert sorted(await service.effects()) == [*sound, TAKEN]
    for n, name in guilty.items():
        said = letters[f"e{n}"]
        if name.startswith("swallowed") and not name.endswith("beneath"):
            assert said["error_class"] == "IntegrityError", name
        else:
            assert said["error_class"] == "TransactionControlError", name
            assert "begin_nested" in said["error_message"], name
    if use_inbox:
        inbox = await service.inbox()
        assert all(inbox[f"e{n}"][0] == "processed" for n in sound)
        assert all(inbox[f"e{n}"][0] == "dead_lettered" for n in guilty)


async def test_an_error_inside_a_savepoint_is_a_handlers_own(service: Service) -> None:
    await _prepare(service)
    consumers = Consumers()

    @consumers.on("order.changed")
    async def handle(event: Event[Change], session: AsyncSession, events: Publisher) -> None:
        try:
            async with session.begin_nested():
                await insert(session, TAKEN)
        except IntegrityError:
            await insert(session, event.payload.n)
            await events.publish("invoice.made", {"id": event.payload.n})
        if event.payload.n % 2:
            await session.begin_nested()  # left open: it is released with the rest

    await service.send_many(20, resources=20)
    async with service.working(consumers, max_deliver=1):
        await eventually(service.is_empty)
    assert await service.dead_letters() == []
    assert sorted(await service.effects()) == [*range(20), TAKEN]
    assert len(await rows(service.engine, "SELECT 1 FROM jetstream_outbox_events")) == 20


async def test_a_transaction_is_proved_with_one_statement(service: Service) -> None:
    consumers = Consumers()

    @consumers.on("*")
    async def nothing(event: Event[dict]) -> None:  # type: ignore[type-arg]
        return None

    await service.send_many(1, resources=1)
    async with service.working(consumers):
        await eventually(service.is_empty)
        seen = statements(service.engine)
        await service.send_many(5, resources=1, start=1)
        await eventually(service.is_empty)
    own = [s for s in seen if "jetstream_inbox_events" in s]
    proofs = [s for s in seen if s.startswith("SELECT txid_current_if_assigned")]
    on_postgres = service.engine.dialect.name == "postgresql"
    assert len(proofs) == (len(own) if on_postgres else 0)


async def test_an_error_that_was_caught_comes_out_at_the_commit(
    postgres_url: str,
) -> None:
    """Whoever commits, a request for instance, is not told of a success that was none."""
    async with database(postgres_url) as (engine, sessions):
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE effect (n int UNIQUE)"))
        async with sessions() as session:
            await _sql(session, "INSERT INTO effect (n) VALUES (1)")
            await session.commit()
        async with sessions() as session:
            with suppress(IntegrityError):
                await _sql(session, "INSERT INTO effect (n) VALUES (1)")
            with pytest.raises(IntegrityError, match="duplicate key") as raised:
                await session.commit()
            assert "begin_nested" in str(getattr(raised.value, "__notes__", ""))
            await session.rollback()
            await _sql(session, "INSERT INTO effect (n) VALUES (2)")
            await session.commit()
        async with sessions() as session:
            with suppress(SQLAlchemyError):
                async with session.begin_nested():
                    await _sql(session, "INSERT INTO effect (n) VALUES (2)")
            await _sql(session, "INSERT INTO effect (n) VALUES (3)")
            await session.commit()
            found = (await (await session.connection()).execute(text("SELECT n FROM effect"))).all()
        assert [row[0] for row in found] == [1, 2, 3]
