"""A lease in the database: one process works, the others stand by and take over within seconds.

A lease has an end, so a holder that dies loses it by the clock. A holder that was only slow may
wake up after that, so whoever writes under a lease checks it once more in the transaction that
writes (`guard`): the check locks the lease's row until the commit.
"""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import Column, String, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import Field, SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

LEASE_SECONDS = 10.0  # how long the others wait after a crash
RENEW_SECONDS = 3.0  # three tries before the lease runs out


class Lease(SQLModel, table=True):
    """Who may do a thing that only one process may do at a time."""

    __tablename__ = "jetstream_leases"

    name: str = Field(sa_column=Column(String(255), primary_key=True))
    holder: str = Field(sa_column=Column(String(64), nullable=False))
    expires_at: datetime


# One statement takes a free lease, takes over an expired one, and renews one's own.
_ACQUIRE = {
    "postgresql": text("""
        INSERT INTO jetstream_leases AS held (name, holder, expires_at)
        VALUES (:name, :holder, clock_timestamp() + make_interval(secs => :seconds))
        ON CONFLICT (name) DO UPDATE
           SET holder = excluded.holder, expires_at = excluded.expires_at
         WHERE held.holder = excluded.holder OR held.expires_at < clock_timestamp()
        RETURNING holder"""),
    "sqlite": text("""
        INSERT INTO jetstream_leases AS held (name, holder, expires_at)
        VALUES (:name, :holder,
                strftime('%Y-%m-%d %H:%M:%f000', 'now', '+' || :seconds || ' seconds'))
        ON CONFLICT (name) DO UPDATE
           SET holder = excluded.holder, expires_at = excluded.expires_at
         WHERE held.holder = excluded.holder
            OR held.expires_at < strftime('%Y-%m-%d %H:%M:%f000', 'now')
        RETURNING holder"""),
}
_GUARD = {
    "postgresql": text("""
        SELECT 1 FROM jetstream_leases
         WHERE name = :name AND holder = :holder AND expires_at > clock_timestamp()
           FOR SHARE"""),
    "sqlite": text("""
        SELECT 1 FROM jetstream_leases
         WHERE name = :name AND holder = :holder
           AND expires_at > strftime('%Y-%m-%d %H:%M:%f000', 'now')"""),
}
_RELEASE = text("DELETE FROM jetstream_leases WHERE name = :name AND holder = :holder")


class LeaseHolder:
    """One process' claim on the lease `name`."""

    def __init__(self, engine: AsyncEngine, name: str, *, seconds: float = LEASE_SECONDS) -> None:
        self.name = name
        self.holder = uuid.uuid4().hex
        self._engine = engine
        self._seconds = seconds

    async def acquire(self) -> bool:
        """Take or renew the lease; False when somebody else holds it."""
        async with self._engine.begin() as connection:
            result = await connection.execute(
                _ACQUIRE[self._engine.dialect.name],
                {"name": self.name, "holder": self.holder, "seconds": self._seconds},
            )
            return result.first() is not None

    async def guard(self, transaction: AsyncConnection | AsyncSession) -> bool:
        """True while the lease is still ours, and until `transaction` ends (PostgreSQL)."""
        if isinstance(transaction, AsyncSession):
            transaction = await transaction.connection()
        result = await transaction.execute(
            _GUARD[self._engine.dialect.name], {"name": self.name, "holder": self.holder}
        )
        return result.first() is not None

    async def release(self) -> None:
        """Give the lease up, so that the next process need not wait for its end."""
        async with self._engine.begin() as connection:
            await connection.execute(_RELEASE, {"name": self.name, "holder": self.holder})
