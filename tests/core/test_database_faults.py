"""Whose fault an error of the database is: an error for each row of the table."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from jetstream_bridge.core.database_faults import SQLITE_CODES, SQLSTATES, Fault, fault_of
from jetstream_bridge.core.errors import (
    BatchPublishError,
    BridgeError,
    NotConnectedError,
    PublishRefusedError,
    PublishUnavailableError,
    StreamMissingError,
)
from jetstream_bridge.outbox.publish_result import BatchResult, PublishResult
from jetstream_bridge.service.database import create_engine


def _postgres_error(state: str) -> Exception:
    error: Exception = asyncpg.PostgresError.new({"C": state, "M": "said the server", "S": "ERROR"})
    return error


def _batch(*errors: BridgeError) -> BatchPublishError:
    results = [
        PublishResult(success=False, event_id="e", subject="s", error=error) for error in errors
    ]
    return BatchPublishError("some were not published", BatchResult(tuple(results)))


@pytest.mark.parametrize("state", sorted(SQLSTATES))
def test_a_sqlstate_belongs_to_its_class(state: str) -> None:
    error = _postgres_error(f"{state:0<5}")

    assert fault_of(error) is SQLSTATES[state]


@pytest.mark.parametrize(
    ("state", "fault"),
    [
        ("08006", Fault.AWAY),
        ("08P01", Fault.AWAY),
        ("22001", Fault.EVENT),
        ("23505", Fault.EVENT),
        ("25P02", Fault.EVENT),  # the handler went on after an error that it had swallowed
        ("40001", Fault.RACE),
        ("53100", Fault.AWAY),
        ("53300", Fault.AWAY),
        ("57014", Fault.UNCLEAR),  # longer than it may: is the statement slow, or the server?
        ("57P01", Fault.AWAY),
        ("57P03", Fault.AWAY),
    ],
)
def test_what_operators_meet_has_its_class(state: str, fault: Fault) -> None:
    assert fault_of(_postgres_error(state)) is fault


@pytest.mark.parametrize("code", sorted(SQLITE_CODES))
def test_a_result_code_of_sqlite_belongs_to_its_class(code: int) -> None:
    error = sqlite3.OperationalError("said SQLite")
    error.sqlite_errorcode = code | 0x300  # an extended code

    assert fault_of(error) is SQLITE_CODES[code]


async def test_a_missing_table_of_sqlite_may_be_a_pending_migration(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite+aiosqlite:///{tmp_path}/empty.db")
    try:
        with pytest.raises(DBAPIError) as raised:
            async with engine.connect() as connection:
                await connection.execute(text("SELECT * FROM nowhere"))
    finally:
        await engine.dispose()

    assert fault_of(raised.value) is Fault.SCHEMA


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (asyncpg.InterfaceError("connection is closed"), Fault.AWAY),
        (asyncpg.InterfaceError("cannot perform operation: another one is in progress"), None),
        (asyncpg.ConnectionDoesNotExistError("connection was closed"), Fault.AWAY),
        (asyncpg.InvalidCachedStatementError("cached statement plan is invalid"), Fault.RACE),
        (PoolTimeoutError("QueuePool limit reached"), Fault.AWAY),
        (OperationalError("SELECT 1", {}, Exception("disk I/O error")), Fault.AWAY),
        (PublishUnavailableError("no answer"), Fault.NATS),
        (NotConnectedError("no server"), Fault.NATS),
        (StreamMissingError("no stream"), Fault.NATS),
        (PublishRefusedError("too large"), Fault.EVENT),
        (_batch(PublishUnavailableError("a"), PublishUnavailableError("b")), Fault.NATS),
        (_batch(PublishUnavailableError("a"), PublishRefusedError("b")), Fault.EVENT),
        (sqlite3.ProgrammingError("Cannot operate on a closed database."), Fault.AWAY),
        (ConnectionResetError("reset by peer"), Fault.UNCLEAR),
        (TimeoutError(), Fault.UNCLEAR),
        (ValueError("a bug"), None),
    ],
)
def test_what_has_no_code_is_told_by_its_kind(error: Exception, fault: Fault | None) -> None:
    assert fault_of(error) is (fault or Fault.EVENT)


def _raised(while_handling: Exception, *, cause: bool = False, hidden: bool = False) -> Exception:
    """A handler's own error, raised because of another one."""
    try:
        try:
            raise while_handling
        except Exception as error:
            if cause:
                raise LookupError("could not save the order") from error
            if hidden:
                raise LookupError("no such order") from None
            raise LookupError("could not save the order")  # noqa: B904 - as handlers do it
    except LookupError as error:
        return error


def test_a_cause_is_looked_at() -> None:
    assert fault_of(_raised(_postgres_error("57P01"), cause=True)) is Fault.AWAY


def test_what_was_being_handled_is_looked_at_unless_it_was_set_aside() -> None:
    assert fault_of(_raised(_postgres_error("40P01"))) is Fault.RACE
    assert fault_of(_raised(_postgres_error("40P01"), hidden=True)) is Fault.EVENT


def test_one_member_of_a_group_is_enough() -> None:
    group = ExceptionGroup("tasks", [ValueError("cancelled beside it"), _postgres_error("57P02")])

    assert fault_of(group) is Fault.AWAY


def test_errors_that_refer_to_each_other_end() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one

    assert fault_of(one) is Fault.EVENT
