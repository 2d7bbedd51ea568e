"""What another program may have written into the outbox: one odd row is one refusal, no more."""

from __future__ import annotations

from collections.abc import Awaitable

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge.events.wire_rules import headers_flaw, sending_flaw
from jetstream_bridge.outbox.rows import MOST_ATTEMPTS
from jetstream_bridge.outbox.sessions import NewEvent, Outbox
from tests.bridge.support import config, database, enqueue, envelope, rows, scalar
from tests.brokers import Broker
from tests.outbox.test_relay import SUBJECT, ids, many, relaying, settled
from tests.waiting import eventually

# What is odd about a row, as SQL, and what its `last_error` names.
ODD = {
    "empty subject": ({"subject": "''"}, "subject ''"),
    "blank subject": ({"subject": "'  '"}, "subject '  '"),
    "wildcard": ({"subject": "'test.*'"}, "wildcard"),
    "line break": ({"subject": "'a' || chr(13) || chr(10) || 'PUB b 0'"}, "subject"),
    "empty token": ({"subject": "'a..b'"}, "empty token"),
    "long subject": ({"subject": f"'a.{'ü' * 600}'"}, "1202 bytes"),
    "slash in a name": ({"headers": """'{"a/b": "x"}'"""}, "'a/b'"),
    "no name": ({"headers": """'{"": "x"}'"""}, "header name ''"),
    "line break in a value": ({"headers": r"""'{"x": "a\r\nb: c"}'"""}, r"'a\r\nb: c'"),
    "NUL in a value": ({"headers": r"""'{"x": "a\u0000"}'"""}, r"'a\x00'"),
    "surrogate in a value": ({"headers": r"""'{"x": "\ud83d"}'"""}, r"'\ud83d'"),
    "number as value": ({"headers": """'{"x": 5}'"""}, "value 5"),
    "list as headers": ({"headers": """'[["x", "y"]]'"""}, "the headers are"),
    "text as headers": ({"headers": """'"x: y"'"""}, "the headers are"),
    "null as headers": ({"headers": "'null'"}, "the headers are"),
    "deep headers": ({"headers": f"'{'[' * 3000}{']' * 3000}'"}, "unreadable row"),
    "an order to the server": ({"headers": """'{"Nats-Rollup": "all"}'"""}, "Nats-Rollup"),
    "blanks around the id": ({"event_id": "' e0 '"}, "' e0 '"),
    "no id": ({"event_id": "''"}, "event_id ''"),
    "id of two lines": ({"event_id": "'a' || chr(10) || 'b'"}, "event_id"),
    "all attempts": ({"attempts": "2147483647", "subject": "''"}, "subject ''"),
}
ON_SQLITE = {
    "headers that are no JSON": ({"headers": "'x: y'"}, "unreadable row"),
    "bytes as subject": ({"subject": "x'ff'"}, "subject"),
    "bytes as id": ({"event_id": "x'fffe'"}, "event_id"),
    "a body that is no UTF-8": ({"payload": """CAST(x'7b2261223a22ff227d' AS TEXT)"""}, "unread"),
    "words as attempts": ({"attempts": "'many'", "subject": "''"}, "subject ''"),
    "words as flag": ({"held": "'no'", "subject": "''"}, "subject ''"),
}
# These can be sent as they are: nothing of what is odd about them travels.
HARMLESS = {
    "sqlite": {
        "integer time": {"enqueued_at": "1764140000"},
        "time with a T": {"enqueued_at": "'2026-01-02T03:04:05Z'"},
        "bytes as time": {"enqueued_at": "x'ff'"},
        "integer id": {"event_id": "12"},
        "id of a peer": {"headers": """'{"nats-msg-id": "other"}'"""},
    },
    "postgresql": {
        "endless time": {"enqueued_at": "'infinity'"},
        "time before Christ": {"enqueued_at": "'0044-03-15 00:00:00+00 BC'"},
        "time after 9999": {"enqueued_at": "'20000-01-01 00:00:00+00'"},
        "id of a peer": {"headers": """'{"nats-msg-id": "other"}'"""},
    },
}


OUTBOX = Outbox(notify=False)
ON_SQLITE_TRIGGERS = ("jetstream_outbox_check", "jetstream_outbox_check_update")


async def insert(engine: AsyncEngine, name: str, columns: dict[str, str]) -> None:
    """Write a row as a program would that knows nothing of the rules."""
    row = {
        "event_id": f"'{name}'",
        "subject": f"'{SUBJECT}'",
        "payload": f"'{envelope(name, resource=name)}'",
        **columns,
    }
    values = ", ".join(row.values())
    if engine.dialect.name == "sqlite":
        values = values.replace("chr(", "char(")
    await execute(
        engine, f"INSERT INTO jetstream_outbox_events ({', '.join(row)}) VALUES ({values})"
    )


async def without_checks(engine: AsyncEngine) -> None:
    """Make the table as it was before it looked at what is written."""
    if engine.dialect.name == "sqlite":
        drops = [f"DROP TRIGGER {name}" for name in ON_SQLITE_TRIGGERS]
    else:
        drops = ["DROP TRIGGER jetstream_outbox_check ON jetstream_outbox_events"]
    for drop in drops:
        await execute(engine, drop)


async def test_an_odd_row_is_refused_and_its_neighbours_go_on_at_full_speed(
    database_url: str, broker: Broker
) -> None:
    async with database(database_url) as (engine, sessions):
        await without_checks(engine)
        odd = ODD | (ON_SQLITE if engine.dialect.name == "sqlite" else {})
        harmless = HARMLESS[engine.dialect.name]
        for name, (columns, _) in odd.items():
            await insert(engine, name, columns)
        for name, columns in harmless.items():
            await insert(engine, name, columns)
        await enqueue(engine, many(300, resources=300), subject=SUBJECT)
        bridge = relaying(config(broker.url, outbox_max_attempts=2), sessions, broker)
        async with bridge:
            await eventually(lambda: bridge.checks()["relay"].ok)
            problems = []

            async def done() -> bool:
                if not bridge.checks()["relay"].ok:
                    problems.append(bridge.checks()["relay"].detail)
                return await settled(engine, failed=len(odd), sent=300 + len(harmless))()

            await eventually(done, limit=20)
            assert problems == []
            assert bridge.failures() == []
        failed = await rows(
            engine,
            "SELECT attempts, last_error FROM jetstream_outbox_events "
            "WHERE status = 'failed' ORDER BY id",
        )
        for row, (name, (_, named)) in zip(failed, odd.items(), strict=True):
            assert named in row.last_error, name
            assert row.attempts == (2 if name != "all attempts" else MOST_ATTEMPTS + 1)
        arrived = set(await ids(broker))
        assert arrived.issuperset(harmless)
        assert len(arrived) == 300 + len(harmless)


# What SQLite cannot see, and the relay finds: it reads a header up to a NUL, and bytes as UTF-8.
BEYOND_SQLITE = {"a body that is no UTF-8", "NUL in a value"}


async def test_the_table_refuses_what_the_wire_cannot_carry(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        odd = {name: columns for name, (columns, _) in ODD.items()}
        beyond: set[str] = set()
        if engine.dialect.name == "sqlite":
            odd |= {name: columns for name, (columns, _) in ON_SQLITE.items()}
            beyond = BEYOND_SQLITE
        for name, columns in HARMLESS[engine.dialect.name].items():
            if "time" in name:  # readers could not show it
                odd[name] = columns
        for name, columns in odd.items():
            if name not in beyond:
                assert await refused(insert(engine, name, columns)), name


async def test_a_row_may_not_be_changed_into_one_that_cannot_travel(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await insert(engine, "good", {})
        for change in ("subject = 'a b'", "event_id = ' good '", """headers = '{"a:b": "c"}'"""):
            assert await refused(execute(engine, f"UPDATE jetstream_outbox_events SET {change}"))
        await execute(engine, "UPDATE jetstream_outbox_events SET subject = 'b.c', attempts = 1")


async def test_the_refusal_of_a_row_names_the_rule(postgres_url: str) -> None:
    async with database(postgres_url) as (engine, _):
        with pytest.raises(IntegrityError) as refusal:
            await insert(engine, "x", {"subject": "'a.*'"})
        cause = refusal.value.orig.__cause__ if refusal.value.orig else None
        assert isinstance(cause, asyncpg.CheckViolationError)
        assert cause.constraint_name == "ck_jetstream_outbox_events_subject"
        assert "without blanks or wildcards" in str(cause)


async def test_every_subject_and_header_that_publish_takes_is_taken_by_the_table(
    database_url: str,
) -> None:
    subjects = ["a", "test.ü.☃", "a." + "x" * 1022, "$a.b-c_d:/\\%"]
    names = ["x", "X-Y_z.1", "!#$%&'*+-.^_`|~"]
    values = ["", "x", "a b", "~!\"'%:;=", "y" * 5000]
    async with database(database_url) as (engine, sessions), sessions() as session:
        for number, subject in enumerate(subjects):
            assert sending_flaw(subject, {}) is None
            OUTBOX.add(session, NewEvent(f"s{number}", subject, envelope("e"), {}))
        for number, name in enumerate(names):
            headers = {f"{name}{n}": value for n, value in enumerate(values)}
            assert headers_flaw(headers) is None
            OUTBOX.add(session, NewEvent(f"h{number}", "a.b", envelope("e"), headers))
        await session.commit()
        assert await scalar(engine, "SELECT count(*) FROM jetstream_outbox_events") == 7


async def execute(engine: AsyncEngine, statement: str) -> None:
    async with engine.begin() as connection:
        await connection.exec_driver_sql(statement)


async def refused(work: Awaitable[None]) -> bool:
    try:
        await work
    except DBAPIError:
        return True
    return False
