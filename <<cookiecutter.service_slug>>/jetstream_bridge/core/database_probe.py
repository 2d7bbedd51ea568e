"""Whether the database takes a write now. It may answer every question and take none.

A standby, a server set to read only, a role that lost its rights and a disk that is full all
answer `SELECT 1`. So the probe writes a row and removes it in the same transaction, and commits:
nothing is left behind, and no two probes wait for each other. What it cannot know is a disk that
has room for this row and not for the next.
"""

from __future__ import annotations

import uuid

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from jetstream_bridge.core.database_faults import Fault, fault_of
from jetstream_bridge.core.limits import bounded

PROBE_LIMIT = 5.0  # seconds
_SQLITE_PATIENCE = 250  # milliseconds; somebody who writes for longer proves that one can
_LONGEST = 200  # characters of a detail

# What only the service's own settings cure.
_REMEDIES = {"unsupported startup parameter": "; behind a pooler set DATABASE_POOLER=transaction"}

# The leases' table is there since the first migration, small, and read by its key only.
_INSERT = {
    "postgresql": text("""
        INSERT INTO jetstream_leases (name, holder, expires_at)
        VALUES (:name, 'probe', clock_timestamp())"""),
    "sqlite": text("""
        INSERT INTO jetstream_leases (name, holder, expires_at)
        VALUES (:name, 'probe', strftime('%Y-%m-%d %H:%M:%f000', 'now'))"""),
}
_DELETE = text("DELETE FROM jetstream_leases WHERE name = :name")


async def write_problem(
    engine: AsyncEngine, *, limit: float = PROBE_LIMIT, tables_may_lack: bool = False
) -> str | None:
    """Return why the database takes no write, or None when it just took one.

    Never raises, and returns after `limit` seconds whatever hangs. A writer that keeps the lock
    of SQLite is no problem: whoever waits for it will have it. `tables_may_lack` is for who looks
    at the migrations too, and would say the same twice.
    """
    try:
        return await bounded(_write(engine), limit)
    except TimeoutError:
        return f"no answer within {limit:g} s"
    except Exception as error:  # whatever it is, nothing was written
        passes = (Fault.BUSY, Fault.SCHEMA) if tables_may_lack else (Fault.BUSY,)
        return None if fault_of(error) in passes else described(error)


def described(error: BaseException) -> str:
    """Say it in one short line; SQLAlchemy's own text would add the statement and a link."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    said = " ".join(str(cause).split())
    remedy = next((remedy for text, remedy in _REMEDIES.items() if text in said), "")
    return (said or type(cause).__name__)[:_LONGEST] + remedy


async def _write(engine: AsyncEngine) -> None:
    name = {"name": f"probe {uuid.uuid4().hex}"}
    kind = engine.dialect.name
    # SQLite's lock is waited for below, and not when a transaction begins.
    own = engine.execution_options(sqlite_begin="DEFERRED")
    async with own.connect() as connection:
        patience = await _shorten_patience(connection) if kind == "sqlite" else None
        try:
            await connection.execute(_INSERT[kind], name)
            await connection.execute(_DELETE, name)
            await connection.commit()
        finally:
            if patience is not None:
                await connection.rollback()
                await _set_patience(connection, patience)


async def _shorten_patience(connection: AsyncConnection) -> int:
    usual = (await connection.exec_driver_sql("PRAGMA busy_timeout")).scalar_one()
    await _set_patience(connection, _SQLITE_PATIENCE)
    return int(usual)


async def _set_patience(connection: AsyncConnection, milliseconds: int) -> None:
    await connection.exec_driver_sql(f"PRAGMA busy_timeout = {milliseconds}")
