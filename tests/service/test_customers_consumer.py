"""Replicas end up right in whatever order their events arrive."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from app.consumers import load_consumers
from app.consumers.customers import CustomerChanged, CustomerDeleted, remove_replica, replicate
from app.models import Customer
from app.settings import ROOT
from jetstream_bridge import Event, Metadata, Unrecoverable
from jetstream_bridge.service.database import Database
from jetstream_bridge.service.runtime import running
from jetstream_bridge.service.schema import migrate
from jetstream_bridge.testing.servers import NatsServer
from tests.apps import make_app
from tests.service.conftest import MakeSettings, serving
from tests.waiting import eventually

_METADATA = Metadata(
    subject="development.billing.sync.orders",
    stream="development-jetstream-bridge-stream",
    sequence=1,
    consumer="development-orders-workers",
    deliveries=1,
    timestamp=datetime(2026, 1, 1, tzinfo=UTC),
)


def _event(kind: str, payload: Any, *, producer: str = "billing") -> Event[Any]:
    return Event(
        event_id="1",
        type=f"customer.{kind}",
        event_type=f"customer.{kind}",
        resource_type="customer",
        resource_id=payload.id,
        producer=producer,
        trace_id="",
        schema_version=1,
        occurred_at=datetime(2026, 1, 1, tzinfo=UTC),
        payload=payload,
        metadata=_METADATA,
        raw={},
    )


async def _handle(database: Database, kind: str, version: int, **event: Any) -> None:
    """Handle one event of the customer `c`, in a transaction of its own."""
    async with database.sessions() as session:
        if kind == "deleted":
            gone = CustomerDeleted(id="c", version=version)
            await remove_replica(_event(kind, gone, **event), session)
        else:
            changed = CustomerChanged(
                id="c",
                name=f"name {version}",
                email=f"{version}@example.com",
                version=version,
                updated_at=datetime(2026, 1, version, tzinfo=UTC),
            )
            await replicate(_event(kind, changed, **event), session)
        await session.commit()


async def _replica(database: Database) -> Customer | None:
    async with database.readers() as session:
        return (await session.exec(select(Customer))).one_or_none()


async def test_a_created_customer_is_replicated(database: Database) -> None:
    await _handle(database, "created", 1)

    replica = await _replica(database)
    assert replica is not None
    assert (replica.id, replica.name, replica.email) == ("c", "name 1", "1@example.com")
    assert (replica.version, replica.origin, replica.deleted_at) == (1, "billing", None)
    assert replica.updated_at == datetime(2026, 1, 1, tzinfo=UTC)


_HISTORY = [("created", 1), ("updated", 2), ("updated", 3)]


@pytest.mark.parametrize("order", list(itertools.permutations(_HISTORY)))
async def test_the_latest_version_stays_in_any_order(
    database: Database, order: Sequence[tuple[str, int]]
) -> None:
    for kind, version in order:
        await _handle(database, kind, version)

    replica = await _replica(database)
    assert replica is not None
    assert (replica.name, replica.version, replica.deleted_at) == ("name 3", 3, None)


@pytest.mark.parametrize(
    "order", list(itertools.permutations([("created", 1), ("updated", 2), ("deleted", 3)]))
)
async def test_a_deleted_customer_does_not_come_back_in_any_order(
    database: Database, order: Sequence[tuple[str, int]]
) -> None:
    for kind, version in order:
        await _handle(database, kind, version)

    replica = await _replica(database)
    assert replica is not None
    assert replica.version == 3
    assert replica.deleted_at is not None
    assert (replica.name, replica.email) == ("", ""), "no personal data stays"


async def test_the_same_version_again_changes_nothing(database: Database) -> None:
    await _handle(database, "created", 1)
    async with database.sessions() as session:
        again = CustomerChanged(id="c", name="other", email="o@example.com", version=1)
        await replicate(_event("created", again), session)
        await session.commit()

    replica = await _replica(database)
    assert replica is not None
    assert replica.name == "name 1"


async def test_no_event_of_another_service_changes_an_own_customer(database: Database) -> None:
    async with database.sessions() as session:
        session.add(Customer(id="c", name="Ada", email="ada@example.com", origin="orders"))
        await session.commit()

    for kind in ("created", "updated", "deleted"):
        with pytest.raises(Unrecoverable, match="belongs to 'orders'; an event of 'billing'"):
            await _handle(database, kind, 9)

    own = await _replica(database)
    assert own is not None
    assert (own.name, own.version, own.deleted_at) == ("Ada", 1, None)


async def test_no_third_service_changes_a_replica(database: Database) -> None:
    await _handle(database, "created", 1)

    with pytest.raises(Unrecoverable, match="belongs to 'billing'"):
        await _handle(database, "updated", 2, producer="shipping")


async def test_customers_of_the_other_service_arrive_and_go(
    database: Database, tmp_path: Path, make_settings: MakeSettings, nats_server: NatsServer
) -> None:
    receiver = make_settings(
        database_url=database.engine.url.render_as_string(hide_password=False),
        nats_urls=nats_server.url,
    )
    sender = make_settings(
        app_name="billing",
        destination_app="orders",
        database_url=f"sqlite+aiosqlite:///{tmp_path / 'billing.sqlite3'}",
        nats_urls=nats_server.url,
    )
    await asyncio.to_thread(migrate, ROOT, sender.database_url.get_secret_value())

    async def is_gone() -> bool:
        replica = await _replica(database)
        return replica is not None and replica.version == 2 and replica.deleted_at is not None

    async def is_there() -> bool:
        replica = await _replica(database)
        return replica is not None and replica.name == "Ada"

    async with (
        running(receiver, consumers=load_consumers()),
        serving(make_app(sender)) as billing,
    ):
        ada = {"name": "Ada", "email": "ada@example.com"}
        created = (await billing.post("/customers", json=ada)).json()
        await eventually(is_there, limit=20, what="the replica")
        assert (await billing.delete(f"/customers/{created['id']}")).status_code == 204
        await eventually(is_gone, limit=20, what="the end of the replica")
