"""Whose fault an error of the database is: the one table that everything here decides by.

An event answers only for what it or its handler did. What the database, its host or another
session did counts no try and no attempt: it is waited out. `docs/operations.md` shows this table
to people, and a test has an error for each row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from enum import Enum, auto

import asyncpg
from sqlalchemy.exc import (
    DBAPIError,
    DisconnectionError,
    InvalidRequestError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from jetstream_bridge.core.errors import (
    BatchPublishError,
    NatsConnectionError,
    PublishUnavailableError,
    StreamMissingError,
)


class Fault(Enum):
    """What an error says about who has to do something."""

    EVENT = auto()  # the event, or its handler: it counts
    RACE = auto()  # this transaction lost against another one: again at once
    BUSY = auto()  # somebody holds a lock: again later; the database works
    AWAY = auto()  # the database cannot work now: wait until it takes a write
    SCHEMA = auto()  # a table or column is missing: a migration may be pending
    UNCLEAR = auto()  # a time-out or a broken connection, of the database or of something else
    NATS = auto()  # an event could not be sent at once: again later


_LOCK_NOT_AVAILABLE = "55P03"

# By SQLSTATE, the longest match first: a whole code, or a class of two characters.
SQLSTATES: dict[str, Fault] = {
    "08": Fault.AWAY,  # connection exception; also what poolers answer when the server has gone
    "0A000": Fault.EVENT,  # feature not supported; a cached plan is told by its class, see below
    "25006": Fault.AWAY,  # read_only_sql_transaction: a standby, or a database set to read only
    "25P03": Fault.AWAY,  # idle_in_transaction_session_timeout: the server ended the session
    "25P04": Fault.AWAY,  # transaction_timeout
    "26000": Fault.RACE,  # a pooler gave the next statement to another server connection
    "28": Fault.AWAY,  # invalid authorization: a password was rotated
    "3D000": Fault.AWAY,  # the database does not exist (any more, or yet)
    "40001": Fault.RACE,  # serialization_failure
    "40003": Fault.AWAY,  # statement_completion_unknown
    "40P01": Fault.RACE,  # deadlock_detected
    "42501": Fault.AWAY,  # insufficient_privilege: a role or a grant has changed
    "42703": Fault.SCHEMA,  # undefined_column
    "42P01": Fault.SCHEMA,  # undefined_table
    "42883": Fault.SCHEMA,  # undefined_function
    "42P05": Fault.RACE,  # duplicate_prepared_statement: a pooler shares server connections
    "53": Fault.AWAY,  # insufficient resources: disk full, memory, too many connections
    "55006": Fault.BUSY,  # object_in_use
    _LOCK_NOT_AVAILABLE: Fault.BUSY,  # lock_timeout ran out
    "57014": Fault.UNCLEAR,  # query_canceled: statement_timeout ran out; is it slow, or the server?
    "57P": Fault.AWAY,  # operator intervention: shutdown, crash, starting up, database dropped
    "58": Fault.AWAY,  # system error: I/O
    "F0": Fault.AWAY,  # configuration file error
    "XX001": Fault.AWAY,  # data_corrupted
    "XX002": Fault.AWAY,  # index_corrupted
}

# By SQLite's primary result code (the low byte of the extended one).
SQLITE_CODES: dict[int, Fault] = {
    sqlite3.SQLITE_BUSY: Fault.BUSY,  # another writer, for longer than the busy time-out
    sqlite3.SQLITE_LOCKED: Fault.BUSY,
    sqlite3.SQLITE_NOMEM: Fault.AWAY,
    sqlite3.SQLITE_READONLY: Fault.AWAY,
    sqlite3.SQLITE_IOERR: Fault.AWAY,
    sqlite3.SQLITE_CORRUPT: Fault.AWAY,
    sqlite3.SQLITE_FULL: Fault.AWAY,
    sqlite3.SQLITE_CANTOPEN: Fault.AWAY,
    sqlite3.SQLITE_PROTOCOL: Fault.BUSY,
    sqlite3.SQLITE_PERM: Fault.AWAY,
    sqlite3.SQLITE_NOTADB: Fault.AWAY,
}
_SQLITE_MISSING = ("no such table", "no such column", "has no column named")

# What asyncpg's own half of a connection says: it has no SQLSTATE. Anything else that it
# complains of is the caller's, such as two statements at once on one connection.
_NO_CONNECTION = ("this connection is closed",)  # as SQLAlchemy's pool says it
_GONE = ("connection is closed", "connection was closed", "connection has been released")

# What talking to the database can raise. SQLAlchemy lets some of its drivers' own errors through,
# so whoever waits out an outage waits for these, and not for SQLAlchemy's alone.
DATABASE_ERRORS: tuple[type[Exception], ...] = (
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    sqlite3.Error,
    OSError,
    TimeoutError,
)


def is_lock_timeout(error: DBAPIError) -> bool:
    """Whether PostgreSQL gave up waiting for a lock (`lock_timeout`)."""
    return getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE


def fault_of(error: BaseException) -> Fault:
    """Return whose fault `error` is; its causes and the members of a group are looked at too.

    A handler often raises an error of its own because of the database's. `UNCLEAR` wants a
    question to the database: a `TimeoutError` may be that of an HTTP call as well.
    """
    found = Fault.EVENT
    for one in _related(error):
        fault = _fault(one)
        if fault in (Fault.RACE, Fault.BUSY, Fault.AWAY, Fault.NATS):
            return fault
        if fault is Fault.SCHEMA or (fault is Fault.UNCLEAR and found is Fault.EVENT):
            found = fault
    return found


def _related(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            waiting.extend(one.exceptions)
        if isinstance(one, DBAPIError) and one.orig is not None:
            waiting.append(one.orig)
        nearest = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
        if nearest is not None:
            waiting.append(nearest)


def _fault(error: BaseException) -> Fault:
    if isinstance(error, BatchPublishError):
        outside = all(_is_of_nats(result.error) for result in error.result.failed)
        return Fault.NATS if outside else Fault.EVENT
    if _is_of_nats(error):
        return Fault.NATS
    state = getattr(error, "sqlstate", None)
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return Fault.RACE  # a migration changed the table under a prepared statement
    if isinstance(state, str) and state:
        return _of_state(state)
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return Fault.AWAY
    if isinstance(error, PoolTimeoutError | DisconnectionError):
        return Fault.AWAY  # all connections of the pool are in use, or none could be had
    if isinstance(error, InvalidRequestError) and _says(error, _NO_CONNECTION):
        return Fault.AWAY
    if isinstance(error, sqlite3.Error):
        return _of_sqlite(error)
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return Fault.AWAY if _says(error, _GONE) else Fault.EVENT
    if isinstance(error, OSError | TimeoutError):
        return Fault.UNCLEAR
    if isinstance(error, OperationalError) and not _has_code(error.orig):
        return Fault.AWAY  # no more than that the database is in trouble
    return Fault.EVENT


def _has_code(error: BaseException | None) -> bool:
    return any(getattr(error, name, None) is not None for name in ("sqlstate", "sqlite_errorcode"))


def _is_of_nats(error: BaseException | None) -> bool:
    """Whether a publisher could not send an event, through no fault of the event."""
    return isinstance(error, PublishUnavailableError | NatsConnectionError | StreamMissingError)


def _of_state(state: str) -> Fault:
    for length in (5, 3, 2):
        if (fault := SQLSTATES.get(state[:length])) is not None:
            return fault
    return Fault.EVENT


def _of_sqlite(error: sqlite3.Error) -> Fault:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # the module's own complaint
        return Fault.AWAY if _says(error, ("closed database",)) else Fault.EVENT
    if (fault := SQLITE_CODES.get(code & 0xFF)) is not None:
        return fault
    return Fault.SCHEMA if _says(error, _SQLITE_MISSING) else Fault.EVENT


def _says(error: BaseException, texts: tuple[str, ...]) -> bool:
    said = str(error).lower()
    return any(text in said for text in texts)
