"""The document is valid by AsyncAPI's own schema, says what is on the wire, and has no secret."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from pydantic import BaseModel
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import Bridge, ConnectionOptions, Consumers
from jetstream_bridge.contracts.asyncapi import asyncapi
from jetstream_bridge.core.errors import RegistrationError
from jetstream_bridge.service import Extensions
from jetstream_bridge.testing import Deliver, MockServer, Published
from jetstream_bridge.testing.events import make_event
from jetstream_bridge.testing.wire import header_values
from tests.contracts.services import Line, Placed, Service

VECTORS = Path(__file__).parent.parent / "vectors"


@cache
def official() -> jsonschema_rs.Validator:
    with gzip.open(VECTORS / "asyncapi-3.0.0.json.gz") as file:
        return jsonschema_rs.validator_for(json.load(file))


def document(service: Service, **options: Any) -> dict[str, Any]:
    """The document, after a look at whether it is one."""
    made = asyncapi(service.catalog, title="Orders", version="1.2.3", **options)
    assert [str(fault) for fault in official().iter_errors(made)] == []
    for reference in references(made):
        found: Any = made
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    return made


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def full() -> Service:
    return (
        Service()
        .publishes("order.placed")
        .publishes("order.sent", destinations=["shipping", "crm"], schema_version=2)
        .handles("invoice.paid", schema_version=3)
        .handles("invoice.sent", "reminder.*", model=dict)
        .handles("*", source="shipping", durable="own-name", ack_wait="45s", max_deliver=2)
        .upcasts("invoice.paid", 2, 1)
    )


def test_a_service_with_everything_is_a_valid_document() -> None:
    made = document(full(), description="It takes orders.")
    assert made["asyncapi"] == "3.0.0"
    assert made["info"] == {
        "title": "Orders",
        "version": "1.2.3",
        "description": "It takes orders.",
    }


def test_a_service_without_events_is_a_valid_document() -> None:
    made = document(Service(use_dlq=False))
    assert (made["channels"], made["operations"]) == ({}, {})


def test_the_official_schema_is_looked_at() -> None:
    made = document(full()) | {"channels": []}
    assert not official().is_valid(made)


def test_channels_are_the_subjects_on_the_wire() -> None:
    made = document(full())
    assert {name: channel["address"] for name, channel in made["channels"].items()} == {
        "to-billing": "test.orders.sync.billing",
        "to-shipping": "test.orders.sync.shipping",
        "to-crm": "test.orders.sync.crm",
        "from-billing": "test.billing.sync.orders",
        "from-shipping": "test.shipping.sync.orders",
        "dead-letters": "test.orders.sync.dlq",
    }
    assert made["channels"]["to-crm"]["x-jetstream"] == {"stream": "test-jetstream-bridge-stream"}


def test_operations_are_the_declared_events_and_the_handlers() -> None:
    operations = document(full())["operations"]
    sent = [name for name, one in operations.items() if one["action"] == "send"]
    assert sent == [
        "send.order.placed.v1.to-billing",
        "send.order.sent.v2.to-shipping",
        "send.order.sent.v2.to-crm",
        "send.dead-letters",
    ]
    assert [name for name, one in operations.items() if one["action"] == "receive"] == [
        "receive.invoice.paid.billing",
        "receive.invoice.sent.billing",
        "receive.reminder.any.billing",
        "receive.any.shipping",
    ]


def test_a_handler_has_its_durable() -> None:
    operations = document(full())["operations"]
    own = operations["receive.any.shipping"]
    assert own["bindings"] == {"nats": {"queue": "own-name", "bindingVersion": "0.1.0"}}
    assert own["x-jetstream"] == {
        "stream": "test-jetstream-bridge-stream",
        "durable": "own-name",
        "ack_wait": 45.0,
        "max_deliver": 2,
    }
    assert operations["receive.invoice.paid.billing"]["bindings"]["nats"]["queue"] == (
        "test-orders-workers"
    )


def test_models_of_one_name_stay_apart() -> None:
    class Other(BaseModel):
        lines: list[Line]

    Other.__name__ = Other.__qualname__ = "Placed"
    made = document(Service().publishes("order.placed").publishes("order.made", model=Other))
    schemas = made["components"]["schemas"]
    assert "id" in schemas["send.order.placed.v1"]["properties"]
    assert "id" not in schemas["send.order.made.v1"]["properties"]
    assert schemas["send.order.made.v1.Line"] == schemas["send.order.placed.v1.Line"]


def test_types_that_are_no_names_stay_apart() -> None:
    made = document(Service().publishes("order/placed").publishes("order_placed"))
    assert len(made["components"]["messages"]) == 3  # with the dead letter


CONNECTIONS: dict[str, tuple[dict[str, Any], str | None, set[str]]] = {
    "a login in the address": (
        {"urls": ("nats://ada:s3cret@one:4223", "tls://[::1]")},
        "userPassword",
        {"one:4223", "[::1]:4222"},
    ),
    "user and password": (
        {"user": "ada", "password": "s3cret"},
        "userPassword",
        {"localhost:4222"},
    ),
    "a token": ({"token": "s3cret"}, "apiKey", {"localhost:4222"}),
    "credentials": ({"creds_file": "/run/s3cret"}, "asymmetricEncryption", {"localhost:4222"}),
    "a certificate": (
        {"tls_cert": "/run/s3cret", "tls_key": "/run/s3cret"},
        "X509",
        {"localhost:4222"},
    ),
    "a path": ({"urls": ("wss://one/nats",)}, None, {"one:443"}),
}


@pytest.mark.parametrize("name", CONNECTIONS)
def test_servers_come_without_secrets(name: str) -> None:
    options, kind, hosts = CONNECTIONS[name]
    made = document(Service(connection=ConnectionOptions(**options)).publishes("order.placed"))
    text = json.dumps(made)
    assert "s3cret" not in text
    assert "ada" not in text
    assert {server["host"] for server in made["servers"].values()} == hosts
    schemes = made["components"].get("securitySchemes", {})
    assert [scheme["type"] for scheme in schemes.values()] == ([kind] if kind else [])


def test_the_document_for_everybody_does_not_say_where_nats_is() -> None:
    options = ConnectionOptions(urls=("nats://inside:4222",), token="t")
    made = document(Service(connection=options), servers=False)
    assert "servers" not in made
    assert "inside" not in json.dumps(made)
    assert "securitySchemes" not in made["components"]


def _message(made: dict[str, Any], name: str, part: str) -> jsonschema_rs.Validator:
    """A validator for a message's payload or headers."""
    schema = made["components"]["messages"][name][part]
    return jsonschema_rs.validator_for({**schema, "components": made["components"]})


@pytest.fixture
def consumers() -> Consumers:
    return Consumers()


@pytest.fixture
def extensions() -> Extensions:
    return Extensions()


async def test_what_is_published_is_what_the_document_says(
    extensions: Extensions, bridge: Bridge, session: AsyncSession, published: Published
) -> None:
    service = Service().publishes("order.placed")
    extensions.publishes("order.placed")(Placed)
    await bridge.publisher(session).publish(Placed(id=7, lines=[Line(product="p")]))
    await session.commit()
    event = await published.assert_published("order.placed")

    made = document(service)
    envelope = json.loads(event.body)
    assert _message(made, "send.order.placed.v1", "payload").is_valid(envelope)
    assert _message(made, "send.order.placed.v1", "headers").is_valid(event.headers)
    changes: list[dict[str, Any]] = [{"schema_version": 2}, {"event_type": "x"}, {"payload": {}}]
    for change in changes:
        assert not _message(made, "send.order.placed.v1", "payload").is_valid(envelope | change)


@pytest.mark.parametrize(
    ("name", "event", "fits"),
    [
        ("invoice.paid.billing", make_event("invoice.paid", {"order_id": 1}), True),
        ("invoice.paid.billing", {"event_type": "invoice.paid", "payload": {"order_id": 1}}, True),
        (
            "invoice.paid.billing",
            {"resource_type": "invoice", "event_type": "paid", "payload": {"order_id": 1}},
            True,
        ),
        ("invoice.paid.billing", {"event_type": "invoice.paid", "payload": {}}, False),
        ("invoice.paid.billing", {"event_type": "invoice.sent", "payload": {"order_id": 1}}, False),
        ("invoice.paid.billing", {"payload": {"order_id": 1}}, False),
        ("reminder.any.billing", {"event_type": "reminder.sent", "payload": {}}, True),
        ("any.shipping", {"event_type": "whatever", "payload": {"order_id": 1}}, True),
    ],
)
def test_what_is_handled_is_what_the_document_says(name: str, event: Any, fits: bool) -> None:
    assert _message(document(full()), f"receive.{name}", "payload").is_valid(event) is fits


async def test_a_dead_letter_is_what_the_document_says(
    deliver: Deliver, mock_nats: MockServer
) -> None:
    result = await deliver(b"{broken")
    assert result.reason == "malformed_json"
    [letter] = [sent for sent in mock_nats.stored if sent.subject.endswith(".dlq")]
    headers = header_values(letter.headers)
    assert _message(document(full()), "dead-letters", "headers").is_valid(headers)


def test_a_gem_peer_gets_its_spelling_of_the_id() -> None:
    made = document(Service(gem_peer=True).publishes("order.placed"))
    headers = made["components"]["messages"]["send.order.placed.v1"]["headers"]
    assert headers["required"] == ["nats-msg-id"]


def test_a_payload_without_a_schema_is_named() -> None:
    class Odd(BaseModel):
        model_config = {"arbitrary_types_allowed": True}

        thing: MockServer

    with pytest.raises(RegistrationError, match=r"Odd has no JSON Schema .*WithJsonSchema"):
        document(Service().publishes("order.placed", model=Odd))
