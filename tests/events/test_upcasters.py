"""Events of older schema versions become today's; those of newer ones follow the setting."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from jetstream_bridge import Consumers, Event
from jetstream_bridge.core.errors import InvalidSubjectError, RegistrationError, UpcastError
from jetstream_bridge.events.upcasters import UpcastChain, Upcaster
from tests.bridge.consuming import Service, letter
from tests.waiting import eventually

Payload = dict[str, Any]


class Person(BaseModel):
    """Version 3: one name, and where it came from."""

    first: str
    last: str
    origin: str


def body(event_id: str, version: int | None, payload: object, **fields: object) -> str:
    envelope: dict[str, object] = {"event_id": event_id, "event_type": "person.named", **fields}
    if version is not None:
        envelope["schema_version"] = version
    return json.dumps({**envelope, "payload": payload})


def split(payload: Payload) -> Payload:
    first, _, last = payload.pop("name").partition(" ")
    return {**payload, "first": first, "last": last}


def add_origin(payload: Payload) -> Payload:
    payload["origin"] = "unknown"
    return payload


def evolved(consumers: Consumers | None = None, **where: Any) -> Consumers:
    consumers = consumers or Consumers()
    consumers.upcast("person.named", from_version=1, **where)(split)
    consumers.upcast("person.named", from_version=2, **where)(add_origin)
    return consumers


def keeping(consumers: Consumers, **options: Any) -> list[Event[Person]]:
    kept: list[Event[Person]] = []

    @consumers.on("person.named", **options)
    async def keep(event: Event[Person]) -> None:
        kept.append(event)

    return kept


async def handled(service: Service, consumers: Consumers, *bodies: str, **changes: Any) -> None:
    for text in bodies:
        await service.send(text)
    async with service.working(consumers, **changes) as bridge:
        await eventually(service.is_empty)
        assert bridge.failures() == []


NEW = {"first": "Ada", "last": "Lovelace", "origin": "unknown"}


async def test_up_casters_run_one_after_another_before_the_payload_is_validated(
    service: Service,
) -> None:
    consumers = evolved()
    kept = keeping(consumers)
    await handled(
        service,
        consumers,
        body("v1", 1, {"name": "Ada Lovelace"}),
        body("v2", 2, {"first": "Ada", "last": "Lovelace"}),
        body("v3", 3, NEW),
        body("none", None, {"name": "Ada Lovelace"}),
    )
    assert {event.event_id for event in kept} == {"v1", "v2", "v3", "none"}
    assert {event.payload.model_dump_json() for event in kept} == {
        json.dumps(NEW, separators=(",", ":"))
    }
    assert {event.schema_version for event in kept} == {3}


async def test_the_event_keeps_what_was_sent(service: Service) -> None:
    consumers = evolved()
    kept = keeping(consumers)
    await handled(service, consumers, body("v1", 1, {"name": "Ada Lovelace"}))
    [event] = kept
    assert event.raw["payload"] == {"name": "Ada Lovelace"}
    assert event.raw["schema_version"] == 1


async def test_both_spellings_of_a_type_are_up_cast(service: Service) -> None:
    consumers = evolved()
    kept = keeping(consumers)
    split_type = body("v1", 1, {"name": "A B"}, event_type="named", resource_type="person")
    await handled(service, consumers, split_type)
    assert [event.payload.last for event in kept] == ["B"]


async def test_up_casters_of_one_source_leave_another_alone(service: Service) -> None:
    consumers = evolved(source="crm")
    seen: list[tuple[str, Payload]] = []

    @consumers.on("person.named")
    async def own(event: Event[dict[str, Any]]) -> None:
        seen.append(("own", dict(event.payload)))

    @consumers.on("person.named", source="crm")
    async def foreign(event: Event[dict[str, Any]]) -> None:
        seen.append(("crm", dict(event.payload)))

    async with service.working(consumers):
        await service.send(body("a", 1, {"name": "A B"}))
        await service.send(body("b", 1, {"name": "A B"}), subject="test.crm.sync.billing")
        await eventually(service.is_empty)
    assert sorted(seen, key=lambda pair: pair[0]) == [
        ("crm", {"first": "A", "last": "B", "origin": "unknown"}),
        ("own", {"name": "A B"}),
    ]


@pytest.mark.parametrize(
    ("version", "payload", "error_class", "said"),
    [
        (1, {}, "UpcastError", "test_upcasters.split of 'person.named' from version 1 failed: Key"),
        (0, {"name": "A B"}, "UpcastError", "leads on from version 0; register one"),
        (1, {"name": 7}, "UpcastError", "from version 1 failed: AttributeError"),
    ],
)
async def test_what_cannot_be_up_cast_is_a_dead_letter_at_once(
    service: Service, version: int, payload: Payload, error_class: str, said: str
) -> None:
    consumers = evolved()
    keeping(consumers)
    sent = body("old", version, payload)
    await handled(service, consumers, sent)
    [dead] = await service.dead_letters()
    assert (letter(dead)["reason"], letter(dead)["error_class"]) == ("unrecoverable", error_class)
    assert said in letter(dead)["error_message"]
    assert letter(dead)["deliveries"] == 1
    assert dead.data == sent.encode(), "a replay brings back what was sent"


async def test_a_payload_that_is_no_object_is_an_invalid_payload(service: Service) -> None:
    consumers = evolved()
    keeping(consumers)
    await handled(service, consumers, body("old", 1, [1]))
    [dead] = await service.dead_letters()
    assert letter(dead)["reason"] == "invalid_payload"


async def test_an_up_caster_works_on_a_payload_of_its_own(service: Service) -> None:
    """What one event's up-caster keeps and changes later is no other event's."""
    consumers = Consumers()
    stolen: list[Payload] = []

    @consumers.upcast("person.named", from_version=1)
    def steal(payload: Payload) -> Payload:
        for other in stolen:
            other["tags"].append("spoilt")
        stolen.append(payload)
        return payload

    kept = keeping_dicts(consumers)
    await handled(
        service, consumers, *(body(f"e{n}", 1, {"tags": []}, resource_id=str(n)) for n in range(3))
    )
    assert len(kept) == 3
    assert all(event.raw["payload"] == {"tags": []} for event in kept)


def keeping_dicts(consumers: Consumers) -> list[Event[dict[str, Any]]]:
    kept: list[Event[dict[str, Any]]] = []

    @consumers.on("person.named")
    async def keep(event: Event[dict[str, Any]]) -> None:
        kept.append(event)

    return kept


# --- events from the future


@pytest.mark.parametrize("by", ["up-casters", "registration"])
async def test_an_event_from_the_future_is_handled_as_it_is(service: Service, by: str) -> None:
    consumers = evolved() if by == "up-casters" else Consumers()
    kept = keeping(consumers, **({} if by == "up-casters" else {"schema_version": 3}))
    await handled(service, consumers, body("v4", 4, {**NEW, "more": 1}))
    assert [(event.schema_version, event.payload.first) for event in kept] == [(4, "Ada")]


@pytest.mark.parametrize("by", ["up-casters", "registration"])
async def test_an_event_from_the_future_is_a_dead_letter_where_the_setting_says_so(
    service: Service, by: str
) -> None:
    consumers = evolved() if by == "up-casters" else Consumers()
    kept = keeping(consumers, **({} if by == "up-casters" else {"schema_version": 3}))
    sent = body("v4", 4, NEW)
    await handled(service, consumers, sent, body("v3", 3, NEW), future_schema="dead_letter")
    assert [event.event_id for event in kept] == ["v3"]
    [dead] = await service.dead_letters()
    assert (letter(dead)["reason"], letter(dead)["error_class"]) == (
        "unrecoverable",
        "FutureSchemaError",
    )
    assert "version 4" in letter(dead)["error_message"]
    assert "up to 3" in letter(dead)["error_message"]
    assert dead.data == sent.encode()


async def test_without_any_known_version_no_event_is_from_the_future(service: Service) -> None:
    consumers = Consumers()
    kept = keeping(consumers)
    await handled(service, consumers, body("v9", 9, NEW), future_schema="dead_letter")
    assert [event.schema_version for event in kept] == [9]


async def test_older_events_need_no_up_caster_where_none_is_registered(service: Service) -> None:
    consumers = Consumers()
    kept = keeping(consumers, schema_version=3)
    await handled(service, consumers, body("v1", 1, NEW), future_schema="dead_letter")
    assert [event.schema_version for event in kept] == [1]


# --- registration


def test_a_step_that_is_there_already_is_refused_with_both_places() -> None:
    consumers = evolved()
    with pytest.raises(RegistrationError, match=r"from version 2 to 3.*keep one") as refused:
        consumers.upcast("person.named", from_version=2)(add_origin)
    assert str(refused.value).count("test_upcasters.py:") == 2


@pytest.mark.parametrize(("first", "second"), [(1, 3), (3, 1)])
def test_a_gap_is_refused_with_both_places(first: int, second: int) -> None:
    consumers = Consumers()
    consumers.upcast("person.named", from_version=first)(split)
    with pytest.raises(RegistrationError, match="gap") as refused:
        consumers.upcast("person.named", from_version=second)(add_origin)
    assert str(refused.value).count("test_upcasters.py:") == 2


def test_the_lower_step_may_be_registered_after_the_higher_one() -> None:
    steps = UpcastChain(Upcaster(add_origin, "person.named", 2))
    steps.add(Upcaster(split, "person.named", 1))
    assert (steps.target, steps.last.function) == (3, add_origin)


@pytest.mark.parametrize(
    ("event_type", "from_version", "function", "named"),
    [
        ("person.*", 1, split, "exact event type"),
        ("", 1, split, "exact event type"),
        ("a.b", 0, split, "from_version 0"),
        ("a.b", True, split, "from_version True"),
        ("a.b", 1, dict, "plain function"),
    ],
)
def test_an_up_caster_that_cannot_be_one_is_refused(
    event_type: str, from_version: int, function: Any, named: str
) -> None:
    with pytest.raises(RegistrationError, match=named):
        Consumers().upcast(event_type, from_version=from_version)(function)


def test_an_up_caster_does_not_wait() -> None:
    async def ask(payload: Payload) -> Payload:
        return payload

    with pytest.raises(RegistrationError, match="plain function"):
        Consumers().upcast("a.b", from_version=1)(ask)  # type: ignore[type-var]


def test_an_up_caster_of_a_source_that_is_no_name_is_refused() -> None:
    with pytest.raises(InvalidSubjectError):
        Consumers().upcast("a.b", from_version=1, source="a.b")


def test_an_up_caster_returns_a_dict() -> None:
    def forget(payload: Payload) -> Payload:
        payload.clear()
        return None  # type: ignore[return-value]

    with pytest.raises(UpcastError, match="returned NoneType; return the new dict"):
        Upcaster(forget, "a.b", 1)({})


def test_a_handler_and_the_up_casters_agree_on_the_version() -> None:
    consumers = evolved()
    keeping(consumers, schema_version=2)
    with pytest.raises(RegistrationError, match=r"reads schema version 2.*leads to 3") as refused:
        consumers.check()
    assert str(refused.value).count("test_upcasters.py:") == 2
    agreeing = evolved()
    keeping(agreeing, schema_version=3)
    agreeing.check()
