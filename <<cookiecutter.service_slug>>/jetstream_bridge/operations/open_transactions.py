"""The database's oldest open transaction: it keeps locks, and rows that a vacuum could remove.

And how many such rows outbox and inbox have, as the database's own statistics tell: no table is
read for it.

Only PostgreSQL tells. Sessions of other users are seen with the role `pg_read_all_stats` only.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

_LIMIT = text("SELECT set_config('statement_timeout', '1000', true)")  # milliseconds
# Not its statement: there may be personal data in it.
_OLDEST = text("""
    SELECT pid, coalesce(application_name, '') AS program, coalesce(state, '') AS state,
           CAST(extract(epoch FROM clock_timestamp() - xact_start) AS float8) AS seconds
      FROM pg_stat_activity
     WHERE datname = current_database() AND xact_start IS NOT NULL
       AND pid <> pg_backend_pid() AND backend_type = 'client backend'
     ORDER BY xact_start LIMIT 1""")
# Statistics are some seconds old at most. Only tables that this service's own statements mean.
_DEAD = text("""
    SELECT coalesce(sum(n_dead_tup), 0) FROM pg_stat_user_tables
     WHERE relid IN (CAST(to_regclass('jetstream_outbox_events') AS oid),
                     CAST(to_regclass('jetstream_inbox_events') AS oid))""")
MANY_DEAD = 500_000  # rows; the alert DeadRows has the same number


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A transaction that somebody began and has not ended."""

    pid: int  # for pg_terminate_backend
    program: str
    state: str  # like `idle in transaction`
    seconds: float


async def oldest_transaction(engine: AsyncEngine) -> OpenTransaction | None:
    """Return the one that has been open longest; None where there is none, and on SQLite."""
    if engine.dialect.name != "postgresql":
        return None
    async with engine.begin() as connection:
        await connection.execute(_LIMIT)
        row = (await connection.execute(_OLDEST)).first()
    return None if row is None else OpenTransaction(row.pid, row.program, row.state, row.seconds)


async def dead_rows(engine: AsyncEngine) -> int | None:
    """Return about how many row versions of outbox and inbox wait for a vacuum; None on SQLite,
    which has none."""
    if engine.dialect.name != "postgresql":
        return None
    async with engine.begin() as connection:
        await connection.execute(_LIMIT)
        return int((await connection.execute(_DEAD)).scalar_one())
