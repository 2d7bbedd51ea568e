"""What is declared leaves as declared, and what is not declared leaves as it is given."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import Bridge, Publisher
from jetstream_bridge.core.errors import (
    InvalidEventError,
    InvalidSubjectError,
    RegistrationError,
)
from jetstream_bridge.events.declared_events import DeclaredEvents
from jetstream_bridge.service import Extensions
from jetstream_bridge.testing import Published


class Placed(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    total: Decimal
    at: datetime = datetime(2026, 1, 2, tzinfo=UTC)


class PlacedAgain(BaseModel):
    id: int
    lines: list[int]


class Voided(BaseModel):
    id: int


class Row:
    """As a row of a table: attributes, and one that is nobody's business."""

    id = 7
    total = Decimal("1.50")
    at = datetime(2026, 1, 2, tzinfo=UTC)
    secret = "no part of the event"


@pytest.fixture
def extensions() -> Extensions:
    extensions = Extensions()
    extensions.publishes("order.placed", "order.changed")(Placed)
    extensions.publishes("order.placed", schema_version=2)(PlacedAgain)
    extensions.publishes("order.voided", destinations=["shipping"])(Voided)
    extensions.publishes("order.sent", destinations=["shipping", "crm"])(Placed)
    return extensions


@pytest.fixture
def events(bridge: Bridge, session: AsyncSession) -> Publisher:
    return bridge.publisher(session)


WIRE = {"id": 7, "total": "1.50", "at": "2026-01-02T00:00:00Z"}


@pytest.mark.parametrize(
    "payload",
    [
        Placed(id=7, total=Decimal("1.50")),
        {"id": 7, "total": "1.50"},
        {"id": 7, "total": Decimal("1.50"), "secret": "no part of the event"},
        Row(),
    ],
    ids=["the model", "a mapping", "a mapping with more", "a row"],
)
async def test_a_declared_event_leaves_as_its_model_says(
    payload: Any, events: Publisher, session: AsyncSession, published: Published
) -> None:
    await events.publish("order.changed", payload)
    await session.commit()

    event = await published.assert_published("order.changed", schema_version=1)
    assert json.loads(event.body)["payload"] == WIRE


async def test_what_a_subclass_has_beside_it_stays_here(
    events: Publisher, session: AsyncSession, published: Published
) -> None:
    class Inside(Placed):
        secret: str = "no part of the event"

    await events.publish("order.changed", Inside(id=7, total=Decimal("1.50")))
    await session.commit()

    event = await published.assert_published("order.changed")
    assert json.loads(event.body)["payload"] == WIRE


async def test_the_model_of_one_type_needs_no_type(
    events: Publisher, session: AsyncSession, published: Published
) -> None:
    await events.publish(PlacedAgain(id=7, lines=[1]))
    await events.publish(Voided(id=7), event_id="v")
    async with events.publish_batch() as batch:
        batch.add(Voided(id=8))
    await session.commit()

    await published.assert_published("order.placed", schema_version=2, payload={"lines": [1]})
    await published.assert_published("order.voided", event_id="v", resource_id="7")
    await published.assert_published("order.voided", resource_id="8")


async def test_the_model_of_several_types_asks_which_one(events: Publisher) -> None:
    with pytest.raises(
        InvalidEventError, match=r"Placed is the payload of order\.changed and order\.placed and"
    ):
        await events.publish(Placed(id=7, total=Decimal(1)))


@pytest.mark.parametrize(
    ("fields", "version", "payload"),
    [
        ({}, 2, {"id": 7, "lines": []}),  # the newest
        ({}, 1, Placed(id=7, total=Decimal("1.50"))),  # the model's
        ({"schema_version": 1}, 1, {"id": 7, "total": "1.50"}),
        ({"resource_type": "order", "event_type": "placed"}, 2, {"id": 7, "lines": []}),
    ],
)
async def test_the_version_is_that_of_the_model(
    fields: Any,
    version: int,
    payload: Any,
    events: Publisher,
    session: AsyncSession,
    published: Published,
) -> None:
    await events.publish(**{"event_type": "order.placed", "payload": payload} | fields)
    await session.commit()

    await published.assert_published("order.placed", schema_version=version, resource_id="7")


async def test_a_version_that_is_not_declared_is_refused(events: Publisher) -> None:
    with pytest.raises(
        InvalidEventError, match=r"declared in schema_version 1 and 2, and not in 3"
    ):
        await events.publish("order.placed", {"id": 7}, schema_version=3)


async def test_what_does_not_fit_is_refused_without_its_values(
    events: Publisher, session: AsyncSession, published: Published
) -> None:
    with pytest.raises(InvalidEventError) as refused:
        await events.publish("order.changed", {"id": "secret", "tota": 1})
    await session.commit()

    said = str(refused.value)
    assert "the payload of 'order.changed' is not as tests.events" in said
    assert "id: Input should be a valid integer" in said
    assert "total: Field required" in said
    assert "secret" not in said
    assert len(published) == 0


async def test_a_destination_is_that_of_the_declaration(
    events: Publisher, session: AsyncSession
) -> None:
    assert (await events.publish(Voided(id=1))).subject == "test.orders.sync.shipping"
    sent = await events.publish("order.sent", WIRE, destination="crm")
    assert sent.subject == "test.orders.sync.crm"
    by_subject = await events.publish("order.sent", WIRE, subject="test.orders.sync.billing")
    assert by_subject.subject == "test.orders.sync.billing"
    with pytest.raises(InvalidEventError, match=r"is not said, and .* for shipping, crm"):
        await events.publish("order.sent", WIRE)
    with pytest.raises(InvalidEventError, match=r"is 'audit', and .* declared for shipping"):
        await events.publish(Voided(id=1), destination="audit")
    await session.rollback()


async def test_what_nobody_declared_and_what_another_service_said_is_left_alone(
    events: Publisher, session: AsyncSession, published: Published
) -> None:
    await events.publish("order.lost", {"anything": [1, None]})
    await events.publish("order.changed", {"by": "hand"}, producer="legacy-shop")
    await session.commit()

    await published.assert_published("order.lost", payload={"anything": [1, None]})
    await published.assert_published("order.changed", payload={"by": "hand"})


async def test_names_on_the_wire_are_those_that_the_model_writes(
    events: Publisher, session: AsyncSession, published: Published, extensions: Extensions
) -> None:
    @extensions.publishes("order.named")
    class Named(BaseModel):
        model_config = ConfigDict(serialize_by_alias=True)

        id: int
        first_name: str = Field(alias="firstName")

    for payload in ({"id": 1, "firstName": "Ada"}, {"id": 1, "first_name": "Ada"}):
        await events.publish("order.named", payload)
    await session.commit()

    await published.assert_published("order.named", {"id": 1, "firstName": "Ada"}, times=2)


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((), {}, "no event type is named"),
        (("order.*",), {}, r"'order\.\*' is no exact event type"),
        (("",), {}, "'' is no exact event type"),
        ((" order.placed",), {}, "no exact event type"),
        (("o" * 256,), {}, "no exact event type"),
        (("order.placed",), {"schema_version": 0}, "schema_version=0 is no version"),
        (("order.placed",), {"schema_version": True}, "schema_version=True is no version"),
        (("order.placed",), {"destinations": "crm"}, "destinations='crm' is one text"),
    ],
)
def test_a_declaration_that_is_none_is_refused(
    arguments: tuple[str, ...], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(RegistrationError, match=said):
        DeclaredEvents().publishes(*arguments, **options)


def test_a_destination_has_the_rules_of_an_app(extensions: Extensions) -> None:
    with pytest.raises(InvalidSubjectError, match=r"destination 'a\.b'"):
        extensions.publishes("order.placed", destinations=["a.b"])


def test_a_payload_is_a_model() -> None:
    with pytest.raises(RegistrationError, match="declare a Pydantic model"):
        DeclaredEvents().publishes("order.placed")(dict)  # type: ignore[type-var]


def test_a_version_is_declared_once(extensions: Extensions) -> None:
    with pytest.raises(RegistrationError) as refused:
        extensions.publishes("order.placed")(Voided)
    said = str(refused.value)
    assert "Voided and " in said
    assert "Placed are both declared as version 1 of 'order.placed'" in said
