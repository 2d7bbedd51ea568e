"""A lease in the database: one process works, the others stand by and take over within seconds.

A lease has an end, so a holder that dies or freezes loses it by the clock. It may wake up after
that and go on where it was, so whoever writes under a lease asks once more, as the last thing
before the commit, whether the lease is still the one of its term (`Fence`). Nobody keeps the row
locked: a renewal and a take-over never wait for a transaction that is under way.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, Connection, String, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import Field

from jetstream_bridge.core.tables import BridgeTable

LEASE_SECONDS = 7.0  # how long the others wait after a crash, and one look more
RENEW_SECONDS = 2.0  # three tries before the lease runs out


class Lease(BridgeTable, table=True):
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
# On SQLite the check also renews: a transaction under way keeps every other writer out, a renewal
# included, so that the lease of one long transaction runs out without being lost.
_STANDS = {
    "postgresql": text("""
        SELECT txid_current_if_assigned() FROM jetstream_leases
         WHERE name = :name AND holder = :holder AND expires_at > clock_timestamp()"""),
    "sqlite": text("""
        UPDATE jetstream_leases
           SET expires_at = strftime('%Y-%m-%d %H:%M:%f000', 'now', '+' || :seconds || ' seconds')
         WHERE name = :name AND holder = :holder
        RETURNING NULL"""),
}
_RELEASE = text("DELETE FROM jetstream_leases WHERE name = :name AND holder = :holder")


class LeaseLostError(Exception):
    """Another worker has taken over; what was handled is rolled back."""


@dataclass(frozen=True, slots=True)
class Fence:
    """What a transaction of one term of a lease asks before it commits."""

    name: str
    holder: str
    seconds: float

    def check(self, connection: Connection) -> int | None:
        """Raise `LeaseLostError` unless the term still lasts.

        Returns the transaction's id on PostgreSQL, as `txid_current_if_assigned()` does: whoever
        commits wants both, and asks once.
        """
        found = connection.execute(
            _STANDS[connection.dialect.name],
            {"name": self.name, "holder": self.holder, "seconds": self.seconds},
        ).first()
        if found is None:
            raise LeaseLostError(f"the lease {self.name!r} is held by another worker")
        transaction: int | None = found[0]
        return transaction


class LeaseHolder:
    """One process' claim on the lease `name`."""

    def __init__(self, engine: AsyncEngine, name: str, *, seconds: float = LEASE_SECONDS) -> None:
        self.name = name
        self.holder = uuid.uuid4().hex
        self._seconds = seconds
        # One statement: a process that freezes keeps no lock, for there is no transaction of its
        # own around it. On SQLite a write needs one.
        self.on_sqlite = engine.dialect.name == "sqlite"
        self._engine = (
            engine if self.on_sqlite else engine.execution_options(isolation_level="AUTOCOMMIT")
        )

    async def acquire(self) -> bool:
        """Take or renew the lease; False when somebody else holds it."""
        async with self._engine.begin() as connection:
            result = await connection.execute(
                _ACQUIRE[self._engine.dialect.name],
                {"name": self.name, "holder": self.holder, "seconds": self._seconds},
            )
            return result.first() is not None

    @property
    def fence(self) -> Fence:
        """The fence of the present term."""
        return Fence(self.name, self.holder, self._seconds)

    async def release(self) -> None:
        """Give the lease up, so that the next process need not wait for its end."""
        holder, self.holder = self.holder, uuid.uuid4().hex  # what is still under way is refused
        async with self._engine.begin() as connection:
            await connection.execute(_RELEASE, {"name": self.name, "holder": holder})
