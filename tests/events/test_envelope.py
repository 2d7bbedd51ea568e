"""The envelope: strict when it is built, lenient when it is read, to the byte on the wire."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from jetstream_bridge.core.errors import EnvelopeError, InvalidEventError, MalformedJSONError
from jetstream_bridge.events.envelope import build
from jetstream_bridge.events.received_envelope import message_key, parse

VECTORS = Path(__file__).parent.parent / "vectors"
PUBLISHED = json.loads((VECTORS / "publish.json").read_text())["cases"]
KEYS = [
    "event_id",
    "schema_version",
    "event_type",
    "producer",
    "resource_id",
    "occurred_at",
    "trace_id",
    "resource_type",
    "payload",
]


class Colour(Enum):
    RED = "red"


def arguments(given_: dict[str, Any]) -> dict[str, Any]:
    """What `build` is called with for the input of a captured case."""
    fields = dict(given_.get("envelope", given_))
    fields.pop("subject", None)
    fields.pop("unknown", None)
    return {"producer": "api", **fields}


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case["name"])
def test_body_equals_what_the_gem_sends(case: dict[str, Any]) -> None:
    assert build(**arguments(case["input"])).to_json() == case["body"]


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case["name"])
def test_what_the_gem_sends_is_read_and_written_again_as_it_was(case: dict[str, Any]) -> None:
    read = parse(case["body"].encode())
    again = build(
        read.event_type,
        read.payload,
        producer=read.producer,
        resource_type=read.resource_type,
        resource_id=read.resource_id,
        event_id=read.event_id,
        trace_id=read.trace_id,
        occurred_at=read.occurred_at,
        schema_version=read.schema_version,
    )
    assert again.to_json() == case["body"]


def test_defaults_fill_every_field() -> None:
    body = json.loads(build("user.created", {"id": 7}, producer="api").to_json())
    assert list(body) == KEYS
    assert UUID(body["event_id"]).version == 7
    assert len(body["trace_id"]) == 16
    assert int(body["trace_id"], 16) >= 0
    assert body["resource_id"] == "7"
    age = datetime.now(UTC) - datetime.fromisoformat(body["occurred_at"])
    assert timedelta(0) <= age < timedelta(seconds=5)
    assert body["occurred_at"].endswith("Z")
    assert len(body["occurred_at"]) == len("2026-01-02T03:04:05Z")


@pytest.mark.parametrize(
    ("event_type", "given_type", "expected"),
    [
        ("user.created", None, "user"),
        ("user.address.changed", None, "user"),
        ("heartbeat", None, "event"),
        (".created", None, "event"),
        ("user.created", "person", "person"),
    ],
)
def test_resource_type_is_given_or_told_by_the_event_type(
    event_type: str, given_type: str | None, expected: str
) -> None:
    built = build(event_type, {}, producer="a", resource_type=given_type)
    assert built.resource_type == expected


@pytest.mark.parametrize(
    ("payload", "given_id", "expected"),
    [
        ({"id": 12}, None, "12"),
        ({"id": "x", "resource_id": "y"}, None, "x"),
        ({"resource_id": "y"}, None, "y"),
        # As other programs read it in the payload, and not as Python writes it.
        ({"id": True}, None, "true"),
        ({"id": False}, None, "false"),
        ({"id": 1.5}, None, "1.5"),
        ({"id": Decimal("1.50")}, None, "1.50"),
        ({"id": datetime(2026, 1, 2, tzinfo=UTC)}, None, "2026-01-02T00:00:00Z"),
        ({"id": Colour.RED}, None, "red"),
        ({"id": [1, "a"]}, None, '[1,"a"]'),
        ({}, True, "true"),
        ({"id": 12}, "z", "z"),
        ({"id": 0}, None, "0"),
        ({}, None, ""),
        ({"id": None}, None, ""),
    ],
)
def test_resource_id_is_given_or_told_by_the_payload(
    payload: dict[str, Any], given_id: str | int | None, expected: str
) -> None:
    assert build("a.b", payload, producer="a", resource_id=given_id).resource_id == expected


class Order(BaseModel):
    id: UUID
    total: Decimal
    at: datetime


def test_a_model_is_a_payload() -> None:
    order = Order(
        id=UUID(int=1), total=Decimal("10.50"), at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    )
    built = build("order.placed", order, producer="a")
    assert built.payload == {
        "id": "00000000-0000-0000-0000-000000000001",
        "total": "10.50",
        "at": "2026-01-02T03:04:05Z",
    }
    assert built.resource_id == "00000000-0000-0000-0000-000000000001"


def test_values_that_json_lacks_are_written_as_models_write_them() -> None:
    body = build("a.b", {"at": datetime(2026, 1, 2, tzinfo=UTC), "x": Decimal("1.1")}, producer="a")
    assert json.loads(body.to_json())["payload"] == {"at": "2026-01-02T00:00:00Z", "x": "1.1"}


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), "2026-01-02T03:04:05Z"),
        (
            datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2))),
            "2026-01-02T01:04:05Z",
        ),
        ("2026-01-02T03:04:05.999+01:00", "2026-01-02T02:04:05Z"),
    ],
)
def test_occurred_at_is_whole_seconds_of_utc(moment: datetime | str, expected: str) -> None:
    assert build("a.b", {}, producer="a", occurred_at=moment).occurred_at == expected


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"event_type": ""}, "event_type ''"),
        ({"event_type": "a\nb"}, "event_type 'a\\nb'"),
        ({"event_type": "x" * 256}, "event_type"),
        ({"payload": [1]}, "list"),
        ({"payload": "text"}, "str"),
        ({"payload": {"x": float("nan")}}, "JSON"),
        ({"payload": {"x": float("inf")}}, "JSON"),
        ({"payload": {"x": object()}}, "JSON"),
        ({"payload": {"x": "\ud800"}}, "JSON"),
        ({"payload": {"x": "a\x00b"}}, "NUL"),
        ({"event_id": ""}, "event_id ''"),
        ({"event_id": "a\r\nEvil: 1"}, "event_id"),
        ({"event_id": "ünï"}, "event_id"),
        ({"event_id": " x"}, "event_id"),
        ({"trace_id": "\x7f"}, "trace_id"),
        ({"resource_id": "a\x00"}, "resource_id"),
        ({"payload": {"id": "a\nb"}}, "resource_id"),
        ({"payload": {"id": float("nan")}}, "resource_id"),
        ({"resource_id": "\ud83d"}, "resource_id"),
        ({"trace_id": "\ud83d"}, "trace_id"),
        ({"event_id": " x "}, "outer blanks"),
        ({"resource_type": " "}, "resource_type"),
        ({"producer": ""}, "producer"),
        ({"schema_version": 0}, "schema_version 0"),
        ({"schema_version": True}, "schema_version True"),
        ({"schema_version": "1"}, "schema_version '1'"),
        ({"occurred_at": "yesterday"}, "occurred_at 'yesterday'"),
        ({"occurred_at": datetime(2026, 1, 2)}, "time zone"),
    ],
)
def test_what_cannot_travel_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidEventError) as refused:
        build(**{"event_type": "a.b", "payload": {}, "producer": "a", **changes}).to_json()
    assert named in str(refused.value)


def test_a_backslash_before_u0000_is_no_nul() -> None:
    body = build("a.b", {"x": "\\u0000"}, producer="a").to_json()
    assert json.loads(body)["payload"] == {"x": "\\u0000"}


storable = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | storable,
    lambda children: st.lists(children) | st.dictionaries(storable, children),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["name", "x", "nested"]), json_values))
def test_any_payload_comes_back_as_it_went(payload: dict[str, Any]) -> None:
    body = build("a.b", payload, producer="a", resource_id="1").to_json()
    assert parse(body.encode()).payload == payload


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b'{"a":NaN}', b'{"a":Infinity}', b"[" * 100_000, b"{'a':1}", b"\x00"],
)
def test_what_is_no_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedJSONError, match="not JSON"):
        parse(body)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"null", "null"),
        (b"[]", "array"),
        (b"5", "number"),
        (b'"x"', "string"),
        (b"true", "boolean"),
        (b"{}", "event_type is missing"),
        (b'{"event_type":"","payload":{}}', "event_type is ''"),
        (b'{"event_type":["a"],"payload":{}}', "event_type"),
        (b'{"event_type":"a"}', "payload is missing"),
    ],
)
def test_what_is_no_envelope_is_refused_by_name(body: bytes, named: str) -> None:
    with pytest.raises(EnvelopeError) as refused:
        parse(body)
    assert not isinstance(refused.value, MalformedJSONError)
    assert named in str(refused.value)


def test_a_reader_takes_what_is_there() -> None:
    read = parse(b'{"event_type":"created","payload":null,"extra":{"kept":1},"event_id":7}')
    assert read.event_id == "7"
    assert (read.schema_version, read.resource_type, read.resource_id) == (1, "", "")
    assert (read.occurred_at, read.payload, read.trace_id) == (None, None, "")
    assert read.raw["extra"] == {"kept": 1}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05.5+02:00", datetime(2026, 1, 2, 1, 4, 5, 500000, tzinfo=UTC)),
        ("2026-01-02T03:04:05", None),
        ("rubbish", None),
        ("0001-01-01T00:00:00+23:59", None),
        (None, None),
        (5, None),
    ],
)
def test_an_unreadable_time_is_unknown(value: object, expected: datetime | None) -> None:
    body = json.dumps({"event_type": "a", "payload": {}, "occurred_at": value}).encode()
    assert parse(body).occurred_at == expected


@pytest.mark.parametrize(
    ("resource_type", "event_type", "expected"),
    [
        ("user", "created", "user.created"),
        ("user", "user.created", "user.created"),
        ("", "created", "created"),
        ("person", "user.created", "user.created"),
    ],
)
def test_both_spellings_of_a_type_are_one(
    resource_type: str, event_type: str, expected: str
) -> None:
    body: dict[str, object] = {
        "event_type": event_type,
        "resource_type": resource_type,
        "payload": {},
    }
    assert parse(json.dumps(body).encode()).type == expected


@pytest.mark.parametrize(
    ("headers", "event_id", "expected"),
    [
        ({"Nats-Msg-Id": "h"}, "e", "h"),
        ({"nats-msg-id": "h"}, "e", "h"),
        ({"NATS-MSG-ID": "h"}, None, "h"),
        ({"Nats-Msg-Id": "  "}, "e", "e"),
        ({"Nats-Msg-Id": "x" * 256}, "e", "e"),
        ({}, "e", "e"),
        ({}, None, "seq:9:1"),
        ({}, "\n", "seq:9:1"),
    ],
)
def test_the_receivers_key_is_header_then_envelope_then_place(
    headers: dict[str, str], event_id: str | None, expected: str
) -> None:
    body: dict[str, object] = {"event_type": "a", "payload": {}, "event_id": event_id}
    assert message_key(headers, parse(json.dumps(body).encode()), "9:1") == expected
    assert message_key({}, None, "9:1") == "seq:9:1"
