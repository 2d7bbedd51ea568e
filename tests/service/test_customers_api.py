"""The customers' routes: what they answer, and what they announce."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlmodel import col, select

from app.models import Customer, now
from jetstream_bridge.outbox.tables import OutboxEvent
from jetstream_bridge.service.database import Database
from tests.apps import make_app
from tests.service.conftest import MakeSettings, serving

ADA = {"name": "Ada", "email": "ada@example.com"}


async def _announced(app: FastAPI) -> list[tuple[str, dict[str, Any]]]:
    """Event type and payload of everything in the outbox, in order."""
    database: Database = app.state.database
    async with database.readers() as session:
        rows = await session.exec(select(OutboxEvent).order_by(col(OutboxEvent.id)))
        return [(row.payload["event_type"], row.payload["payload"]) for row in rows]


async def _add_replica(app: FastAPI, **values: Any) -> str:
    database: Database = app.state.database
    row: dict[str, Any] = {
        "name": "Bob",
        "email": "bob@example.com",
        "origin": "billing",
        "version": 3,
    } | values
    async with database.sessions() as session:
        customer = Customer(**row)
        session.add(customer)
        await session.commit()
    return customer.id


async def test_a_customer_is_created_and_announced(app: FastAPI, client: httpx.AsyncClient) -> None:
    response = await client.post("/customers", json=ADA)

    assert response.status_code == 201
    created = response.json()
    assert set(created) == {"id", "name", "email", "version", "origin", "updated_at"}
    assert created | ADA == created
    assert (created["version"], created["origin"]) == (1, "orders")
    assert await _announced(app) == [("customer.created", created)]
    assert (await client.get(f"/customers/{created['id']}")).json() == created


async def test_an_event_says_whose_it_is_and_where_it_goes(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    created = (await client.post("/customers", json=ADA)).json()

    async with app.state.database.readers() as session:
        row = (await session.exec(select(OutboxEvent))).one()
    assert row.subject == "development.orders.sync.billing"
    assert row.payload["producer"] == "orders"
    assert (row.payload["resource_type"], row.payload["resource_id"]) == (
        "customer",
        created["id"],
    )


async def test_a_change_counts_the_version_up_and_is_announced(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    created = (await client.post("/customers", json=ADA)).json()

    response = await client.patch(f"/customers/{created['id']}", json={"name": "Ada L."})

    assert response.status_code == 200
    changed = response.json()
    assert (changed["name"], changed["email"], changed["version"]) == ("Ada L.", ADA["email"], 2)
    assert changed["updated_at"] >= created["updated_at"]
    assert (await _announced(app))[1:] == [("customer.updated", changed)]


async def test_a_change_that_changes_nothing_is_not_announced(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    created = (await client.post("/customers", json=ADA)).json()

    response = await client.patch(f"/customers/{created['id']}", json={"name": ADA["name"]})

    assert response.json() == created
    assert len(await _announced(app)) == 1


async def test_a_change_of_an_older_version_is_refused(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    created = (await client.post("/customers", json=ADA)).json()
    path = f"/customers/{created['id']}"
    await client.patch(path, json={"name": "first", "version": 1})

    response = await client.patch(path, json={"name": "second", "version": 1})

    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    assert "version 2 and not 1" in response.json()["detail"]
    assert (await client.get(path)).json()["name"] == "first"
    assert len(await _announced(app)) == 2


async def test_changes_at_once_each_get_a_version_and_are_announced_in_its_order(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    created = (await client.post("/customers", json=ADA)).json()
    path = f"/customers/{created['id']}"

    answers = await asyncio.gather(
        *(client.patch(path, json={"name": f"name {number}"}) for number in range(10))
    )

    assert {answer.status_code for answer in answers} == {200}
    versions = [payload["version"] for _, payload in await _announced(app)]
    assert versions == list(range(1, 12))


async def test_a_deleted_customer_is_gone_and_its_end_is_announced(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    created = (await client.post("/customers", json=ADA)).json()
    path = f"/customers/{created['id']}"

    response = await client.delete(path)

    assert (response.status_code, response.content) == (204, b"")
    assert (await client.get(path)).status_code == 404
    assert (await client.delete(path)).status_code == 404
    assert (await _announced(app))[1:] == [
        ("customer.deleted", {"id": created["id"], "version": 2})
    ]


async def test_a_replica_can_be_read_and_not_changed(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    path = f"/customers/{await _add_replica(app)}"

    assert (await client.get(path)).json()["origin"] == "billing"
    for answer in (await client.patch(path, json={"name": "x"}), await client.delete(path)):
        assert answer.status_code == 409
        assert "change it in the service 'billing'" in answer.json()["detail"]
    assert await _announced(app) == []


async def test_a_deleted_replica_is_not_there(app: FastAPI, client: httpx.AsyncClient) -> None:
    path = f"/customers/{await _add_replica(app, deleted_at=now())}"

    assert (await client.get(path)).status_code == 404
    assert (await client.patch(path, json={"name": "x"})).status_code == 404
    assert (await client.get("/customers")).json() == {"items": [], "next": None}


async def test_the_list_comes_in_pages(client: httpx.AsyncClient) -> None:
    created = [(await client.post("/customers", json=ADA)).json()["id"] for _ in range(5)]

    found: list[str] = []
    after = None
    while True:
        query = {"limit": 2} | ({"after": after} if after else {})
        page = (await client.get("/customers", params=query)).json()
        found += [customer["id"] for customer in page["items"]]
        after = page["next"]
        if after is None:
            break

    assert found == sorted(created)


async def test_a_page_that_is_just_full_is_the_last(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        await client.post("/customers", json=ADA)

    page = (await client.get("/customers", params={"limit": 2})).json()

    assert (len(page["items"]), page["next"]) == (2, None)


async def test_without_the_outbox_a_change_that_cannot_be_announced_is_not_made(
    migrated_url: str, make_settings: MakeSettings
) -> None:
    app = make_app(make_settings(database_url=migrated_url, use_outbox=False))

    async with serving(app) as client:
        response = await client.post("/customers", json=ADA)
        page = (await client.get("/customers")).json()

    assert response.status_code == 503
    assert page["items"] == []


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "after=", "after=%00"])
async def test_a_page_that_cannot_be_is_refused(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/customers?{query}")).status_code == 422


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "   "},
        {"name": "x" * 201},
        {"name": "a\x00b"},
        {"name": None},
        {"name": 7},
        {"email": "ada"},
        {"email": "a b@example.com"},
        {"email": "@example.com"},
        {"email": f"{'a' * 250}@example.com"},
    ],
)
async def test_an_impossible_customer_is_refused(
    app: FastAPI, client: httpx.AsyncClient, change: dict[str, object]
) -> None:
    response = await client.post("/customers", json=ADA | change)

    assert response.status_code == 422
    assert await _announced(app) == []


async def test_text_that_is_no_unicode_is_refused(client: httpx.AsyncClient) -> None:
    body = b'{"name": "\\ud800", "email": "ada@example.com"}'
    response = await client.post(
        "/customers", content=body, headers={"content-type": "application/json"}
    )

    assert response.status_code == 422


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_a_customer_that_is_not_there_is_not_found(
    client: httpx.AsyncClient, method: str
) -> None:
    json: dict[str, str] | None = {} if method == "PATCH" else None

    assert (await client.request(method, "/customers/nobody", json=json)).status_code == 404
    assert (await client.request(method, "/customers/%00", json=json)).status_code == 422
