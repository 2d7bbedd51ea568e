"""What is read of a message for its handler: by JSON's own rules, whatever validators raise."""

from __future__ import annotations

import enum
import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator

from jetstream_bridge import Consumers, Event, Retry, Unrecoverable
from jetstream_bridge.events.event import Metadata
from jetstream_bridge.inbox.reading import EventReader, ReadMessage
from tests.inbox.test_deliveries import message


class Colour(enum.Enum):
    RED = "red"


class Flag(enum.IntEnum):
    UP = 1


class Inner(BaseModel):
    model_config = ConfigDict(strict=True)
    at: datetime


class StrictPayload(BaseModel):
    """Each type that JSON has no form of its own for."""

    model_config = ConfigDict(strict=True, extra="forbid")

    at: datetime
    on: date
    clock: time
    lasts: timedelta
    key: UUID
    amount: Decimal
    colour: Colour
    flag: Flag
    blob: bytes
    pair: tuple[int, str]
    names: set[str]
    address: IPv4Address
    kind: Literal["a", "b"]
    inner: Inner
    counts: dict[UUID, int]
    number: float


STRICT: dict[str, Any] = {
    "at": "2026-01-02T03:04:05Z",
    "on": "2026-01-02",
    "clock": "03:04:05",
    "lasts": "PT5S",
    "key": "0198f3f0-0000-7000-8000-000000000000",
    "amount": "1.10",
    "colour": "red",
    "flag": 1,
    "blob": "abc",
    "pair": [1, "x"],
    "names": ["n"],
    "address": "10.0.0.1",
    "kind": "a",
    "inner": {"at": "2026-01-02T03:04:05Z"},
    "counts": {"0198f3f0-0000-7000-8000-000000000000": 2},
    "number": 5,
}


class Base64Payload(BaseModel):
    model_config = ConfigDict(val_json_bytes="base64")
    blob: bytes


class PartlyStrict(BaseModel):
    at: Annotated[datetime, Strict()]
    key: UUID = Field(strict=True)


class Broken(BaseModel):
    """A model whose validators raise what is asked for."""

    how: Any = None

    @field_validator("how", mode="before")
    @classmethod
    def break_down(cls, value: Any) -> Any:
        if value == "attribute":
            return value.name.first
        if value == "key":
            return dict[str, str]()["secret value"]
        if value == "recursion":
            return cls.break_down(value)
        if value == "bare":
            raise Exception
        raised = {"memory": MemoryError, "outside": ConnectionError, "retry": Retry}.get(value)
        if raised is not None:
            raise raised("secret value")
        if value == "never":
            raise Unrecoverable("secret value")
        return value


def read(
    payload_type: Any, payload: Any, consumers: Consumers | None = None, **fields: Any
) -> ReadMessage:
    consumers = consumers or Consumers()

    async def handle(event: Event[Any]) -> None: ...

    handle.__annotations__["event"] = Event[payload_type]
    consumers.on("order.changed")(handle)
    body = json.dumps({"event_type": "order.changed", "payload": payload, **fields}).encode()
    reader = EventReader(consumers, None)
    reading = reader.read(message(body), {}, METADATA)
    assert reading.payload is None, "no code of the service's runs where the message arrives"
    reader.finish(reading)
    return reading


METADATA = Metadata(
    subject="s", stream="S", sequence=1, consumer="c", deliveries=1, timestamp=datetime.now(UTC)
)


def test_a_strict_model_takes_what_json_says() -> None:
    reading = read(StrictPayload, STRICT)
    assert reading.verdict is None
    payload = reading.payload
    assert payload.at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (payload.key, payload.amount) == (UUID(STRICT["key"]), Decimal("1.10"))
    assert (payload.colour, payload.flag, payload.blob) == (Colour.RED, Flag.UP, b"abc")
    assert (payload.pair, payload.names) == ((1, "x"), {"n"})


def test_strict_still_means_strict() -> None:
    reading = read(StrictPayload, STRICT | {"flag": "1", "kind": 5})
    assert reading.verdict is not None
    assert reading.verdict.reason == "invalid_payload"
    assert "flag: " in str(reading.verdict.error)
    assert "kind: " in str(reading.verdict.error)


def test_a_models_own_rules_for_json_hold() -> None:
    assert read(Base64Payload, {"blob": "YWJj"}).payload.blob == b"abc"
    assert read(PartlyStrict, {"at": STRICT["at"], "key": STRICT["key"]}).verdict is None
    assert read(dict[UUID, int], {STRICT["key"]: 1}).payload == {UUID(STRICT["key"]): 1}


def test_a_strict_model_takes_what_up_casters_made() -> None:
    consumers = Consumers()

    @consumers.upcast("order.changed", from_version=1)
    def to_two(payload: dict[str, Any]) -> dict[str, Any]:
        return {**payload, "key": UUID(STRICT["key"])}

    reading = read(PartlyStrict, {"at": STRICT["at"]}, consumers)
    assert reading.verdict is None
    assert reading.payload == PartlyStrict(
        at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), key=UUID(STRICT["key"])
    )
    assert reading.envelope is not None
    assert reading.envelope.schema_version == 2


def test_what_up_casters_make_is_json() -> None:
    consumers = Consumers()

    @consumers.upcast("order.changed", from_version=1)
    def to_two(payload: dict[str, Any]) -> dict[str, Any]:
        return {"at": object()}

    reading = read(PartlyStrict, {}, consumers)
    assert reading.verdict is not None
    assert reading.verdict.reason == "invalid_payload"
    assert "up-casters" in str(reading.verdict.error)


def test_half_of_a_surrogate_pair_is_handled_as_a_replacement() -> None:
    class Named(BaseModel):
        name: str

    assert read(Named, {"name": "a\ud83d"}).payload.name == "a\ufffd"


@pytest.mark.parametrize("payload", [[], "x", 5, None, True, [[]], {}])
def test_a_payload_of_any_type_has_a_verdict(payload: Any) -> None:
    for payload_type in (StrictPayload, dict[str, Any]):
        reading = read(payload_type, payload)
        if payload_type is StrictPayload or payload != {}:
            assert reading.verdict is not None
            assert reading.verdict.reason == "invalid_payload"


@pytest.mark.parametrize("how", ["attribute", "key", "recursion", "bare"])
def test_a_validator_that_breaks_down_is_a_verdict_that_says_where(how: str) -> None:
    reading = read(Broken, {"how": how})
    assert reading.verdict is not None
    assert reading.verdict.reason == "invalid_payload"
    text = str(reading.verdict.error)
    assert "tests/inbox/test_reading.py:" in text
    assert "in Broken.break_down" in text
    assert "secret" not in text


@pytest.mark.parametrize("how", ["memory", "outside", "retry", "never"])
def test_what_is_not_the_events_fault_is_tried_again_as_a_handlers(how: str) -> None:
    with pytest.raises((MemoryError, OSError, Retry, Unrecoverable)):
        read(Broken, {"how": how})


def test_a_payload_as_deep_as_can_be_read_is_up_cast() -> None:
    consumers = Consumers()

    @consumers.upcast("order.changed", from_version=1)
    def to_two(payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    deep: Any = 1
    for _ in range(198):
        deep = {"a": deep}
    reading = read(dict[str, Any], deep, consumers)
    assert reading.verdict is None
    assert reading.payload == deep
