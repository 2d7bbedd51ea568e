"""Messages that no sender of ours would write: each ends, and the others are handled beside it."""

from __future__ import annotations

from typing import Any

import pytest
from nats.js.api import RawStreamMsg
from pydantic import BaseModel, ConfigDict, field_validator
from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import Consumers, Event
from tests.bridge.consuming import SUBJECT, Service, insert, letter
from tests.bridge.raw import publish_raw
from tests.bridge.support import envelope, rows
from tests.waiting import eventually


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int = 0

    @field_validator("n", mode="before")
    @classmethod
    def must_have_a_name(cls, value: Any) -> Any:
        return value if isinstance(value, int) else value.name


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this can be said")


def handling() -> Consumers:
    consumers = Consumers()

    @consumers.on("order.changed")
    async def record(event: Event[Closed], session: AsyncSession) -> None:
        await insert(session, event.payload.n)

    @consumers.on("error.changed")
    async def speechless(event: Event[dict[str, Any]]) -> None:
        raise SpeechlessError

    @consumers.on("any.changed")
    async def take(event: Event[dict[str, Any]], session: AsyncSession) -> None:
        await insert(session, event.payload["n"])

    @consumers.upcast("any.changed", from_version=1)
    def to_two(payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    return consumers


async def ends(service: Service, *bodies: str, **changes: Any) -> list[RawStreamMsg]:
    """Send bodies among good events; return the letters when nothing else is left."""
    async with service.working(handling(), max_deliver=2, **changes):
        await service.send(envelope("good-1", resource="1", n=1))
        for body in bodies:
            await service.send(body)
        await service.send(envelope("good-2", resource="2", n=2))
        await eventually(service.is_empty)
    assert {1, 2} <= set(await service.effects())
    return await service.dead_letters()


def deep(levels: int) -> str:
    inner = '{"a":' * levels + "1" + "}" * levels
    return '{"event_type":"any.changed","event_id":"deep","payload":' + inner + "}"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (envelope("e").replace('"payload":{}', '"payload":[]'), "invalid_payload"),
        (envelope("e", n="x"), "invalid_payload"),
        (envelope("e", n=["x"]), "invalid_payload"),
        (envelope("e", K=1).replace("K", "a\\u0000b"), "invalid_payload"),
        (envelope("e", K=1).replace("K", "a\\ud83d"), "invalid_payload"),
        (deep(600), "malformed_json"),
        (deep(10_000), "malformed_json"),
        ('{"event_type":"\\ud83d\\u0000","payload":1', "malformed_json"),
        ('{"event_type":["\\ud83d\\u0000"],"payload":1}', "invalid_envelope"),
    ],
)
async def test_what_cannot_be_read_is_a_letter(service: Service, body: str, reason: str) -> None:
    [dead] = await ends(service, body)
    assert letter(dead)["reason"] == reason
    assert dead.data == body.encode()
    statuses = [status for status, _ in (await service.inbox()).values()]
    assert sorted(statuses) == ["dead_lettered", "processed", "processed"]


@pytest.mark.parametrize("bad", ["\\ud83d", "\\u0000", "a\\ud83db"])
async def test_an_id_that_no_row_can_hold_is_none(service: Service, bad: str) -> None:
    body = envelope("ID", resource="RES", kind="any", n=3).replace("ID", bad).replace("RES", bad)
    assert await ends(service, body) == []
    assert set(await service.effects()) == {1, 2, 3}


async def test_an_error_that_cannot_say_what_it_is_ends_in_a_letter(service: Service) -> None:
    [dead] = await ends(service, envelope("e", kind="error"))
    assert letter(dead)["error_message"] == "its text cannot be made: RuntimeError"


async def test_an_event_that_the_inbox_cannot_hold_ends_as_a_letter(service: Service) -> None:
    await refuse_in_the_inbox(service, "odd")
    [dead] = await ends(service, envelope("odd", resource="3", n=3))
    assert letter(dead)["event_id"] == "odd"
    assert "odd" not in await service.inbox()


async def test_an_unreadable_event_that_the_inbox_cannot_hold_ends_as_a_letter(
    service: Service,
) -> None:
    await refuse_in_the_inbox(service, "odd")
    [dead] = await ends(service, envelope("odd", resource="3", n="x"))
    assert letter(dead)["reason"] == "invalid_payload"


async def refuse_in_the_inbox(service: Service, event_id: str) -> None:
    """Have the database refuse each row of one event, as it does what a column cannot hold."""
    async with service.engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            statement = f"ALTER TABLE jetstream_inbox_events ADD CHECK (event_id <> '{event_id}')"
        else:
            statement = (
                "CREATE TRIGGER refuse BEFORE INSERT ON jetstream_inbox_events "
                f"WHEN NEW.event_id = '{event_id}' BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
        await connection.execute(text(statement))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("block", [b"X: y", b"NATS/1.0 \xff\xff\r\n\r\n", b"a/b: c\r\n"])
async def test_odd_headers_hold_nobody_up(service: Service, block: bytes) -> None:
    async with service.working(handling()):
        await publish_raw(service.client, SUBJECT.encode(), block, envelope("e", n="x").encode())
        await service.send(envelope("good", n=1))
        await eventually(service.is_empty)
    assert await service.effects() == [1]
    assert len(await service.dead_letters()) == 1


async def test_messages_of_one_id_that_are_parked_do_not_take_each_others_place(
    service: Service,
) -> None:
    bodies = [envelope("same", resource="9", n=f"{n}") + " " * n for n in (1, 2, 3)]
    bodies = [body.replace('"n":"', '"n":"x') for body in bodies]
    assert await ends(service, *bodies, use_dlq=False) == []
    parked = await rows(
        service.engine, "SELECT body FROM jetstream_inbox_events WHERE body IS NOT NULL"
    )
    assert sorted(row[0] for row in parked) == sorted(body.encode() for body in bodies)


async def test_a_failure_of_another_message_leaves_the_parked_one_of_its_id(
    service: Service,
) -> None:
    unreadable = envelope("same", resource="9", n="x")
    failing = envelope("same", resource="9", kind="error", n=4)
    assert await ends(service, unreadable, failing, use_dlq=False) == []
    parked = await rows(
        service.engine, "SELECT body FROM jetstream_inbox_events WHERE body IS NOT NULL"
    )
    assert sorted(row[0] for row in parked) == sorted([unreadable.encode(), failing.encode()])
