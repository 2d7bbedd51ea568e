"""What the service says of its events over HTTP: to everybody, and to operators."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from tests.web.console import HTML, Person

EVENTS = "/admin/console/events"


async def test_everybody_may_read_the_document(client: httpx.AsyncClient) -> None:
    answer = await client.get("/asyncapi.json")
    assert answer.status_code == 200
    document = answer.json()
    assert document["asyncapi"] == "3.0.0"
    assert "servers" not in document
    assert {
        "send.customer.created.v1.to-billing",
        "receive.customer.updated.billing",
    } <= set(document["operations"])


async def test_the_document_is_part_of_openapi(client: httpx.AsyncClient) -> None:
    assert "/asyncapi.json" in (await client.get("/openapi.json")).json()["paths"]


async def test_operators_read_where_nats_is(person: Person) -> None:
    answer = await person.client.get(f"{EVENTS}/asyncapi.json", headers=HTML)
    assert answer.headers["content-disposition"] == 'attachment; filename="asyncapi.json"'
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["servers"]["nats"]["protocol"] == "nats"


async def test_nobody_else_does(client: httpx.AsyncClient) -> None:
    for path in (EVENTS, f"{EVENTS}/asyncapi.json", f"{EVENTS}/published?event_type=a"):
        assert (await client.get(path)).status_code == 401


async def test_the_page_lists_what_is_published_and_what_is_handled(person: Person) -> None:
    page = await person.get(EVENTS)
    assert page.status == 200
    for text in (
        "customer.created",
        "app.events.customers.CustomerView",
        "test.orders.sync.billing",
        "app.consumers.customers.replicate",
        "test-orders-workers",
    ):
        assert text in page.text
    assert page.link("asyncapi.json") == f"{EVENTS}/asyncapi.json"


async def test_a_published_event_has_its_schema(person: Person) -> None:
    page = await person.get(
        (await person.get(EVENTS)).link("published?event_type=customer.created")
    )
    assert page.status == 200
    for text in ("customer.created", "Schema version", "test.orders.sync.billing", '"updated_at"'):
        assert text in page.text


async def test_a_handled_event_has_its_schema(person: Person) -> None:
    page = await person.get((await person.get(EVENTS)).link("handled?event_type=customer.deleted"))
    assert page.status == 200
    for text in ("customer.deleted", "test.billing.sync.orders", "any", '"minLength"'):
        assert text in page.text


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("published?event_type=order.lost", 404),
        ("published?event_type=customer.created&version=2", 404),
        ("handled?event_type=customer.created&source=nobody", 404),
        ("published", 422),
        ("published?event_type=customer.created&version=0", 422),
        ("handled?event_type=customer.created&sauce=billing", 422),
    ],
)
async def test_what_is_not_there_is_a_page_too(person: Person, query: str, status: int) -> None:
    page = await person.get(f"{EVENTS}/{query}")
    assert page.status == status
    assert "h1" in page.tags


async def test_a_service_without_events_has_an_empty_page(
    person: Person, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = app.state.events.catalog
    monkeypatch.setitem(app.state.events.__dict__, "catalog", type(catalog)(catalog.config, (), ()))
    page = await person.get(EVENTS)
    assert "No declared events" in page.text
    assert "No handlers" in page.text
