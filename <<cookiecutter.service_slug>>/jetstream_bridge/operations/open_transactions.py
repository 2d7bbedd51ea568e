"""The database's oldest open transaction: it keeps locks, and rows that a vacuum could remove.

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
