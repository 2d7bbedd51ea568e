"""An event as its handler has it: whole, readable in both manners, and unchangeable."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from jetstream_bridge import Event, Metadata
from jetstream_bridge.events.envelope import build
from jetstream_bridge.events.frozen_json import frozen, thawed
from jetstream_bridge.events.received_envelope import parse

STORED = datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC)
SENT: dict[str, Any] = {
    "event_id": "e1",
    "schema_version": 2,
    "event_type": "customer.created",
    "producer": "billing",
    "resource_id": "c1",
    "occurred_at": "2026-01-02T03:04:05.5+01:00",
    "trace_id": "t1",
    "resource_type": "customer",
    "payload": {"id": "c1", "address": {"city": "London", "lines": ["a", {"b": 1}]}, "items": 3},
    "tenant": {"name": "acme"},
}


def event(sent: dict[str, Any] = SENT, **changes: Any) -> Event[Any]:
    """What a handler gets for the envelope `sent`."""
    read = parse(json.dumps(sent).encode())
    fields: dict[str, Any] = {
        "event_id": read.event_id or "seq:7",
        "type": read.type,
        "event_type": read.event_type,
        "resource_type": read.resource_type,
        "resource_id": read.resource_id,
        "producer": read.producer,
        "trace_id": read.trace_id,
        "schema_version": read.schema_version,
        "occurred_at": read.occurred_at,
        "payload": read.payload,
        "metadata": Metadata(
            subject="test.billing.sync.orders",
            stream="s",
            sequence=7,
            consumer="c",
            deliveries=2,
            timestamp=STORED,
            headers={"Nats-Msg-Id": "e1"},
        ),
        "raw": read.raw,
    }
    return Event(**{**fields, **changes})


def test_an_event_says_what_came_and_where_from() -> None:
    got = event()
    assert (got.event_id, got.type, got.producer) == ("e1", "customer.created", "billing")
    assert got.occurred_at == datetime(2026, 1, 2, 2, 4, 5, 500000, tzinfo=UTC)
    assert got.metadata.timestamp == STORED
    assert got.metadata.headers == {"Nats-Msg-Id": "e1"}
    assert (got.subject, got.stream, got.sequence, got.deliveries) == (
        "test.billing.sync.orders",
        "s",
        7,
        2,
    )


def test_a_payload_is_read_by_item_and_by_attribute() -> None:
    payload = event().payload
    assert payload["address"]["city"] == payload.address.city == "London"
    assert payload.address.lines[1].b == 1
    assert payload["items"] == 3, "a name that a dict has as a method is read as an item"
    assert callable(payload.items)
    with pytest.raises(AttributeError, match="no 'name' here; there is 'id', 'address', 'items'"):
        _ = payload.name
    with pytest.raises(KeyError):
        _ = payload["name"]
    assert not hasattr(payload, "name")


def test_a_payload_is_a_dict_for_whoever_reads() -> None:
    class Customer(BaseModel):
        id: str
        address: dict[str, Any]

    payload, sent = event().payload, SENT["payload"]
    assert isinstance(payload, dict)
    assert payload == sent
    assert json.loads(json.dumps(payload)) == sent
    assert Customer.model_validate(payload).address["city"] == "London"
    assert TypeAdapter(dict[str, Any]).dump_python(payload, mode="json") == sent
    assert json.loads(build("a.b", payload, producer="a").to_json())["payload"] == sent
    assert {**payload} == payload | {} == dict(payload) == sent
    assert payload.get("name", "-") == "-"
    assert list(payload) == ["id", "address", "items"]


CHANGES: list[Callable[[Any], Any]] = [
    lambda payload: payload.__setitem__("id", 1),
    lambda payload: payload.__delitem__("id"),
    lambda payload: setattr(payload, "id", 1),
    lambda payload: delattr(payload, "id"),
    lambda payload: payload.update(id=1),
    lambda payload: payload.pop("id"),
    lambda payload: payload.popitem(),
    lambda payload: payload.clear(),
    lambda payload: payload.setdefault("new", 1),
    lambda payload: payload.__ior__({"id": 1}),
    lambda payload: payload["address"].update(city="Paris"),
    lambda payload: payload["address"]["lines"].append(1),
    lambda payload: payload["address"]["lines"].__setitem__(0, 1),
    lambda payload: payload["address"]["lines"].__iadd__([1]),
    lambda payload: payload["address"]["lines"].sort(),
    lambda payload: payload["address"]["lines"][1].clear(),
]


@pytest.mark.parametrize("change", CHANGES)
def test_no_part_of_a_payload_can_be_changed(change: Callable[[Any], Any]) -> None:
    got = event()
    for part in (got.payload, got.raw["payload"]):
        with pytest.raises(TypeError, match="cannot be changed"):
            change(part)
    assert got.payload == SENT["payload"]


def test_no_part_of_an_event_can_be_changed() -> None:
    got = event()
    with pytest.raises(FrozenInstanceError):
        got.event_id = "other"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        got.metadata.deliveries = 1  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del got.payload
    with pytest.raises(TypeError):
        got.metadata.headers["x"] = "y"  # type: ignore[index]


def test_what_the_next_try_reads_is_what_this_one_read() -> None:
    payload = json.loads(json.dumps(SENT["payload"]))
    first = event(payload=payload).payload
    dict.__setitem__(first, "id", "forced")
    assert event(payload=payload).payload["id"] == "c1"


def test_a_copy_may_be_changed() -> None:
    mine = copy.deepcopy(event().payload)
    mine["address"]["lines"].append("c")
    assert type(mine) is dict
    assert type(mine["address"]["lines"]) is list
    assert copy.deepcopy(event().payload["address"]["lines"]) == ["a", {"b": 1}]


def test_an_event_can_be_pickled_and_copied() -> None:
    got = event()
    again = pickle.loads(pickle.dumps(got))
    assert again.payload == SENT["payload"]
    with pytest.raises(TypeError):
        again.payload["address"]["lines"].append(1)
    assert copy.copy(got) == got
    assert replace(got, event_id="e2").event_id == "e2"


def test_events_are_equal_when_all_of_them_is_and_stand_in_sets() -> None:
    assert event() == event()
    assert event() != event(event_id="e2")
    assert {event(), event()} == {event()}


def test_a_misspelt_attribute_is_an_error() -> None:
    with pytest.raises(AttributeError, match="'paylaod'"):
        _ = event().paylaod  # type: ignore[attr-defined]


def test_a_model_stays_the_model() -> None:
    class Customer(BaseModel):
        id: str

    customer = Customer(id="c1")
    assert event(payload=customer).payload is customer


def test_its_text_does_not_show_the_payload() -> None:
    assert repr(event()) == "<Event customer.created e1 from billing, delivery 2>"


def test_fields_that_nobody_here_knows_are_kept() -> None:
    assert event().raw["tenant"] == {"name": "acme"}


def test_the_envelope_is_given_back_as_it_came() -> None:
    envelope = event().to_envelope()
    assert envelope == SENT
    assert list(envelope) == list(SENT)
    envelope["payload"]["address"]["city"] = "Paris"
    assert event().to_envelope() == SENT


def test_what_the_sender_left_out_is_in_the_envelope() -> None:
    got = event({"event_type": "created", "payload": {"id": 1}, "occurred_at": "rubbish", "x": 1})
    assert got.to_envelope() == {
        "event_id": "seq:7",
        "schema_version": 1,
        "event_type": "created",
        "producer": "",
        "resource_id": "",
        "occurred_at": "2026-01-02T03:04:06Z",
        "trace_id": "",
        "resource_type": "",
        "payload": {"id": 1},
        "x": 1,
    }


@pytest.mark.parametrize("version", ["2", None, True, 2.5])
def test_a_version_that_is_no_number_is_the_first(version: object) -> None:
    assert event({**SENT, "schema_version": version}).to_envelope()["schema_version"] == 1


def test_the_envelope_has_the_payload_and_the_version_as_sent_and_not_as_upcast() -> None:
    got = event(payload={"upcast": True}, schema_version=3)
    envelope = got.to_envelope()
    assert (envelope["schema_version"], envelope["payload"]) == (2, SENT["payload"])


def test_an_event_made_by_hand_has_an_envelope_too() -> None:
    class Customer(BaseModel):
        id: str
        since: datetime

    made = event(payload=Customer(id="c1", since=STORED), raw={}, schema_version=4)
    envelope = made.to_envelope()
    assert envelope["payload"] == {"id": "c1", "since": "2026-01-02T03:04:06Z"}
    assert (envelope["schema_version"], envelope["occurred_at"]) == (4, "2026-01-02T02:04:05Z")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


@given(json_values)
def test_freezing_changes_no_value(value: Any) -> None:
    assert frozen(value) == value
    assert thawed(frozen(value)) == value
    assert json.dumps(frozen(value)) == json.dumps(value)


def test_an_envelope_built_here_keeps_further_fields_behind_its_own() -> None:
    built = build("a.b", {"id": 1}, producer="a", event_id="e", extra={"tenant": "acme"})
    assert list(json.loads(built.to_json()))[-2:] == ["payload", "tenant"]
