"""The fixtures that a service's tests build on tell the truth about handlers and events."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import Bridge, Consumers, Event, Publisher, Retry, Unrecoverable
from jetstream_bridge.inbox.tables import InboxEvent
from jetstream_bridge.testing import (
    Deliver,
    MockServer,
    Outcome,
    Published,
    VirtualClock,
    make_event,
)


class Order(BaseModel):
    id: int
    total: float = 0.0


class Fickle:
    """How the handler is to behave."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.seen: list[int] = []


@pytest.fixture
def fickle() -> Fickle:
    return Fickle()


@pytest.fixture
def consumers(fickle: Fickle) -> Consumers:
    consumers = Consumers()

    @consumers.on("order.placed")
    async def bill(event: Event[Order], events: Publisher) -> None:
        fickle.seen.append(event.payload.id)
        if fickle.error is not None:
            raise fickle.error
        await events.publish("invoice.made", {"id": event.payload.id, "lines": {"a": 1, "b": 2}})

    return consumers


async def test_a_handled_event_is_processed(deliver: Deliver, fickle: Fickle) -> None:
    result = await deliver("order.placed", {"id": 7})
    assert (result.outcome, result.processed) == (Outcome.PROCESSED, True)
    assert (result.deliveries, fickle.seen) == (1, [7])


async def test_the_same_event_again_is_a_duplicate(deliver: Deliver, fickle: Fickle) -> None:
    event = make_event("order.placed", {"id": 7}, producer="billing")
    assert (await deliver(event)).outcome is Outcome.PROCESSED
    assert (await deliver(event)).outcome is Outcome.DUPLICATE
    assert fickle.seen == [7]


async def test_an_event_without_a_handler_is_ignored(deliver: Deliver) -> None:
    assert (await deliver("nobody.cares")).outcome is Outcome.IGNORED


async def test_a_failure_is_retried_and_may_heal(deliver: Deliver, fickle: Fickle) -> None:
    fickle.error = Retry(delay=30)
    first = await deliver("order.placed", {"id": 7})
    assert (first.outcome, first.delay) == (Outcome.RETRIED, 30)
    fickle.error = None
    second = await deliver.again(first)
    assert (second.outcome, second.deliveries) == (Outcome.PROCESSED, 2)


async def test_the_last_failure_is_a_dead_letter(
    deliver: Deliver, fickle: Fickle, bridge: Bridge
) -> None:
    fickle.error = ValueError("never")
    result = await deliver("order.placed", {"id": 7})
    for _ in range(bridge.config.max_deliver - 1):
        assert result.outcome is Outcome.RETRIED
        result = await deliver.again(result)
    assert (result.outcome, result.reason) == (Outcome.DEAD_LETTERED, "max_deliver_exceeded")
    assert result.error is not None
    assert result.error.startswith("ValueError: never (tests/testing/test_helpers.py:")
    assert len(fickle.seen) == bridge.config.max_deliver


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (b"{broken", "malformed_json"),
        (b"[]", "invalid_envelope"),
        ({"event_type": "order.placed"}, "invalid_envelope"),
        (make_event("order.placed", {"id": "many"}), "invalid_payload"),
    ],
)
async def test_what_cannot_be_handled_is_a_dead_letter_at_once(
    deliver: Deliver, fickle: Fickle, event: Any, reason: str
) -> None:
    result = await deliver(event)
    assert (result.outcome, result.reason) == (Outcome.DEAD_LETTERED, reason)
    assert fickle.seen == []


async def test_unrecoverable_is_a_dead_letter_at_once(deliver: Deliver, fickle: Fickle) -> None:
    fickle.error = Unrecoverable("no such customer")
    result = await deliver("order.placed", {"id": 7})
    assert (result.outcome, result.reason) == (Outcome.DEAD_LETTERED, "unrecoverable")


async def test_the_inbox_can_be_read(deliver: Deliver, session: AsyncSession) -> None:
    await deliver("order.placed", {"id": 7}, event_id="mine")
    [row] = await session.exec(select(InboxEvent))
    assert (row.event_id, row.status) == ("mine", "processed")


async def test_what_a_handler_publishes_is_seen(
    deliver: Deliver, published: Published, fickle: Fickle
) -> None:
    await deliver("order.placed", {"id": 7})
    sent = await published.assert_published("invoice.made", {"lines": {"a": 1}}, resource_id="7")
    assert sent.producer == "orders"
    assert sent.subject == "test.orders.sync.billing"
    assert sent.headers["Nats-Msg-Id"] == sent.event_id
    assert [event.type for event in published] == ["invoice.made"]
    fickle.error = ValueError("rolled back")
    await deliver("order.placed", {"id": 8})
    await published.assert_not_published("invoice.made", {"id": 8})


async def test_a_missing_event_is_explained(deliver: Deliver, published: Published) -> None:
    with pytest.raises(AssertionError, match="nothing was published at all"):
        await published.assert_published("invoice.made")
    await deliver("order.placed", {"id": 7})
    with pytest.raises(AssertionError) as explained:
        await published.assert_published(
            "invoice.made", {"id": 8, "lines": {"c": 3}}, resource_type="invoice"
        )
    assert str(explained.value).splitlines() == [
        "invoice.made was published 0 times and not 1 times as expected",
        "  expected resource_type: 'invoice'",
        "  expected payload: {'id': 8, 'lines': {'c': 3}}",
        "  1. invoice.made: payload.id is 7 and not 8",
        "     payload.lines.c is missing; expected 3",
    ]
    with pytest.raises(AssertionError, match="was published, and should not have been"):
        await published.assert_not_published("invoice.made")


async def test_two_of_a_kind_can_be_asked_for(deliver: Deliver, published: Published) -> None:
    await deliver("order.placed", {"id": 7})
    await deliver("order.placed", {"id": 8})
    last = await published.assert_published("invoice.made", times=2)
    assert last.payload["id"] == 8
    with pytest.raises(AssertionError, match="2 times and not 3"):
        await published.assert_published("invoice.made", times=3)


async def test_an_outage_delays_and_loses_nothing(
    bridge: Bridge,
    session: AsyncSession,
    published: Published,
    mock_nats: MockServer,
    clock: VirtualClock,
) -> None:
    mock_nats.stop()
    await bridge.publisher(session).publish("order.placed", {"id": 1})
    await session.commit()
    await clock.advance("10m")
    assert len(published) == 0
    mock_nats.start()
    await clock.advance("30s")
    assert [event.payload for event in published] == [{"id": 1}]


async def test_an_event_of_an_unknown_source_has_nowhere_to_go(deliver: Deliver) -> None:
    with pytest.raises(LookupError, match=r"test\.stranger\.sync\.orders"):
        await deliver("order.placed", {"id": 1}, source="stranger")
