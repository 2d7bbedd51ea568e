"""The customers example: what its routes announce, and how replicas of the other's come about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.models import Customer
from app.settings import Settings
from jetstream_bridge.service import Database
from jetstream_bridge.testing import Deliver, Outcome, Published

ADA = {"name": "Ada", "email": "ada@example.com"}
ELSEWHERE = {"id": "c", "name": "Bob", "email": "bob@example.com", "version": 3}


async def test_a_new_customer_is_announced(
    client: httpx.AsyncClient, assert_published: Callable[..., Any], service_settings: Settings
) -> None:
    created = (await client.post("/customers", json=ADA)).json()

    event = await assert_published("customer.created", payload=created)
    assert (event.resource_type, event.resource_id) == ("customer", created["id"])
    assert event.producer == service_settings.app_name


async def test_changes_are_announced_in_their_order(
    client: httpx.AsyncClient, assert_published: Callable[..., Any], published: Published
) -> None:
    path = f"/customers/{(await client.post('/customers', json=ADA)).json()['id']}"
    assert (await client.patch(path, json={"name": "Ada L."})).json()["version"] == 2
    assert (await client.delete(path)).status_code == 204

    await assert_published("customer.deleted", payload={"version": 3})
    assert [event.payload["version"] for event in published] == [1, 2, 3]
    assert (await client.get(path)).status_code == 404


async def test_a_change_of_an_older_version_is_refused(client: httpx.AsyncClient) -> None:
    path = f"/customers/{(await client.post('/customers', json=ADA)).json()['id']}"
    await client.patch(path, json={"name": "first", "version": 1})

    response = await client.patch(path, json={"name": "second", "version": 1})

    assert response.status_code == 409
    assert "version 2 and not 1" in response.json()["detail"]


@pytest.mark.parametrize("change", [{"name": ""}, {"name": "x" * 201}, {"email": "ada"}])
async def test_an_impossible_customer_is_refused_and_not_announced(
    client: httpx.AsyncClient, assert_not_published: Callable[..., Any], change: dict[str, str]
) -> None:
    assert (await client.post("/customers", json=ADA | change)).status_code == 422
    await assert_not_published("customer.created")


async def test_a_customer_of_the_other_service_is_replicated(
    deliver: Deliver, session: AsyncSession, service_settings: Settings
) -> None:
    assert (await deliver("customer.created", ELSEWHERE)).processed

    replica = (await session.exec(select(Customer))).one()
    assert (replica.id, replica.name, replica.version) == ("c", "Bob", 3)
    assert replica.origin == service_settings.destination_app


async def test_an_older_version_changes_nothing_and_a_deleted_one_stays_deleted(
    deliver: Deliver, session: AsyncSession
) -> None:
    await deliver("customer.created", ELSEWHERE)
    await deliver("customer.deleted", {"id": "c", "version": 5})
    assert (await deliver("customer.updated", ELSEWHERE | {"version": 4})).processed

    replica = (await session.exec(select(Customer))).one()
    assert (replica.version, replica.name) == (5, "")
    assert replica.deleted_at is not None


async def test_no_other_service_changes_an_own_customer(
    deliver: Deliver, session: AsyncSession, service_settings: Settings
) -> None:
    session.add(Customer(id="c", name="Ada", email="a@b.c", origin=service_settings.app_name))
    await session.commit()

    result = await deliver("customer.updated", ELSEWHERE)

    assert result.outcome is Outcome.DEAD_LETTERED
    assert "belongs to" in (result.error or "")


async def test_a_customer_travels_from_a_request_to_the_other_services_table(
    client: httpx.AsyncClient, peer: Database, eventually: Callable[..., Any]
) -> None:
    created = (await client.post("/customers", json=ADA)).json()

    async def is_replicated() -> bool:
        async with peer.readers() as session:
            return await session.get(Customer, created["id"]) is not None

    await eventually(is_replicated)
