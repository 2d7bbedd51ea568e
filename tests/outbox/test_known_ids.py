"""An unreadable message with the id of a processed event leaves a line, a count and a letter."""

from __future__ import annotations

import logging

import pytest
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import Consumers, Event
from jetstream_bridge.inbox.middleware.ended import Ended
from tests.bridge.consuming import Change, Service, insert, letter, recording
from tests.bridge.support import envelope, rows
from tests.brokers import MockBroker
from tests.waiting import eventually


class Ends:
    """Is told how each event ended, as metrics are."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def ended(self, end: Ended) -> None:
        self.told.append((end.event_id, end.outcome))


BODIES = {
    "malformed_json": b"{broken",
    "invalid_envelope": b"[1]",
    "invalid_payload": envelope("e1", n="many").encode(),
}


@pytest.mark.parametrize("reason", BODIES)
async def test_an_unreadable_message_with_a_known_id_is_a_letter(
    service: Service, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    ends = Ends()
    consumers = recording()
    consumers.use(ends)
    await service.send(envelope("e1", n=1))
    async with service.working(consumers):
        await eventually(service.is_empty)
        await service.send(BODIES[reason], headers={"nats-msg-id": "e1"})
        await eventually(service.is_empty)
    [dead] = await service.dead_letters()
    assert (dead.data, (dead.headers or {})["x-dlq-reason"]) == (BODIES[reason], reason)
    assert letter(dead)["event_id"] == "e1"
    assert ends.told == [("e1", "processed"), ("e1", "dead_lettered")]
    assert "its id is that of another message, which has taken effect" in caplog.text
    assert await service.inbox() == {"e1": ("processed", None)}, "which is still true"


async def test_without_dead_letters_it_is_parked_beside_the_row_of_the_event(
    service: Service,
) -> None:
    await service.send(envelope("e1", n=1))
    async with service.working(recording(), use_dlq=False):
        await eventually(service.is_empty)
        for body in (b"{broken", b"{broken too"):
            await service.send(body, headers={"nats-msg-id": "e1"})
        await eventually(service.is_empty)
    found = await rows(
        service.engine, "SELECT event_id, status, body FROM jetstream_inbox_events ORDER BY id"
    )
    assert [(row.event_id.partition(":")[0], row.status) for row in found] == [
        ("e1", "processed"),
        ("seq", "dead_lettered"),
        ("seq", "dead_lettered"),
    ]
    assert {bytes(row.body) for row in found[1:]} == {b"{broken", b"{broken too"}


async def test_an_event_without_a_handler_that_took_effect_before_is_a_duplicate(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """Its handler was taken out since; the sender sent it once more."""
    caplog.set_level(logging.INFO)
    await service.send(envelope("e1", n=1))
    async with service.working(recording()):
        await eventually(service.is_empty)
    ends = Ends()
    consumers = Consumers()
    consumers.use(ends)

    @consumers.on("other.changed")
    async def other(event: Event[Change]) -> None:
        raise AssertionError(event)

    await service.send(envelope("e1", n=1))
    async with service.working(consumers, unhandled="dead_letter"):
        await eventually(service.is_empty)
    assert await service.dead_letters() == []
    assert ends.told == [("e1", "duplicate")]
    assert "event known already" in caplog.text


@pytest.mark.parametrize("broker", ["mock"], indirect=True)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_message_that_took_effect_and_cannot_be_read_any_more_is_a_duplicate(
    service: Service,
) -> None:
    """Its acknowledgement was lost, and its handler wants another payload since."""
    assert isinstance(service.broker, MockBroker)
    before, ends, after = Consumers(), Ends(), Consumers()
    after.use(ends)

    @before.on("order.changed")
    async def loose(event: Event[dict], session: AsyncSession) -> None:  # type: ignore[type-arg]
        await insert(session, 1)

    @after.on("order.changed")
    async def strict(event: Event[Change]) -> None:
        raise AssertionError(event)

    service.broker.server.faults.lose_answer()
    await service.send(envelope("e1", n="many"))
    async with service.working(before, ack_wait=1.0):
        await eventually(service.effects)
    async with service.working(after, ack_wait=1.0):
        await eventually(service.is_empty)
    assert await service.dead_letters() == []
    assert ends.told == [("e1", "duplicate")]
