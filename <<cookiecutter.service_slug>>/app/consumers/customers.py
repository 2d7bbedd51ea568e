"""Replicas of the other service's customers, right in whatever order their events arrive.

Workers share the events, so two events of one customer can be handled in the wrong order. Only
the version decides: an older or equal one changes nothing. Created and updated events carry the
whole customer, so either makes the replica, and a deleted replica remains as a version alone.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, Field
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.consumers.registry import consumers
from app.models import Customer, now
from jetstream_bridge import Event, Unrecoverable


class CustomerChanged(BaseModel):
    """What this service needs of a customer elsewhere; further fields are welcome."""

    id: str = Field(min_length=1, max_length=255)
    name: str
    email: str
    version: int = Field(ge=1)
    updated_at: AwareDatetime | None = None


class CustomerDeleted(BaseModel):
    id: str = Field(min_length=1, max_length=255)
    version: int = Field(ge=1)


@consumers.on("customer.created", "customer.updated")
async def replicate(event: Event[CustomerChanged], session: AsyncSession) -> None:
    changed = event.payload
    await _write_if_newer(
        session,
        {
            "id": changed.id,
            "name": changed.name,
            "email": changed.email,
            "version": changed.version,
            "origin": event.producer,
            "updated_at": _utc(changed.updated_at) or event.occurred_at or now(),
            "deleted_at": None,
        },
    )


@consumers.on("customer.deleted")
async def remove_replica(event: Event[CustomerDeleted], session: AsyncSession) -> None:
    gone = event.occurred_at or now()
    await _write_if_newer(
        session,
        {
            "id": event.payload.id,
            "name": "",
            "email": "",
            "version": event.payload.version,
            "origin": event.producer,
            "updated_at": gone,
            "deleted_at": gone,
        },
    )


async def _write_if_newer(session: AsyncSession, row: dict[str, Any]) -> None:
    """Write the whole row unless its version, or a later one, is there already.

    One statement, since two workers may hold events of the same customer. `origin` is part of
    the condition: no event of another service changes a customer that is not its own.
    """
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = insert(Customer).values(row)
    new, old = statement.excluded, Customer.__table__.c  # type: ignore[attr-defined]
    result = await session.exec(
        statement.on_conflict_do_update(
            index_elements=["id"],
            set_={name: new[name] for name in row if name not in ("id", "origin")},
            where=(old.version < new.version) & (old.origin == new.origin),
        )
    )
    if result.rowcount == 0:
        await _check_owner(session, row["id"], row["origin"])


async def _check_owner(session: AsyncSession, customer_id: str, producer: str) -> None:
    owner = (await session.exec(select(Customer.origin).where(Customer.id == customer_id))).first()
    if owner != producer:
        raise Unrecoverable(
            f"the customer {customer_id!r} belongs to {owner!r}; an event of {producer!r} "
            "cannot change it"
        )


def _utc(moment: datetime | None) -> datetime | None:
    return moment.astimezone(UTC) if moment else None
