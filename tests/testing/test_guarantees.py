"""What a service may rely on, each in one test: take its mechanism away, and it fails."""

from __future__ import annotations

import pytest
from sqlalchemy import event as sqlalchemy_event

from jetstream_bridge import Bridge, Consumers, Event, Publisher
from jetstream_bridge.service.database import Database
from jetstream_bridge.testing import Deliver, Outcome, Published, VirtualClock, make_event


@pytest.fixture
def seen() -> list[str]:
    return []


@pytest.fixture
def consumers(seen: list[str]) -> Consumers:
    consumers = Consumers()

    @consumers.on("order.placed")
    async def handle(event: Event[dict[str, object]], publisher: Publisher) -> None:
        seen.append(event.event_id)
        await publisher.publish("order.seen", {"id": 1})

    return consumers


async def test_an_event_that_comes_twice_is_handled_once(
    deliver: Deliver, seen: list[str], published: Published, clock: VirtualClock
) -> None:
    event = make_event("order.placed", {"id": 1})
    outcomes = [(await deliver(event)).outcome for _ in range(2)]
    await clock.advance("5s")
    assert seen == [event["event_id"]]
    assert len(published) == 1
    assert outcomes == [Outcome.PROCESSED, Outcome.DUPLICATE]


async def test_an_event_whose_commit_failed_is_handled_again(
    deliver: Deliver, database: Database, seen: list[str], published: Published, bridge: Bridge
) -> None:
    await deliver.until_ready()
    refused: list[object] = []

    def refuse(connection: object) -> None:
        if seen and not refused:
            refused.append(connection)
            raise RuntimeError("the commit failed")

    sqlalchemy_event.listen(database.engine.sync_engine, "commit", refuse)
    first = await deliver("order.placed", {"id": 1})
    assert first.outcome is Outcome.RETRIED
    assert len(published) == 0
    second = await deliver.again(first)
    assert second.outcome is Outcome.PROCESSED
    assert len(seen) == 2
    await published.assert_published("order.seen")
    assert len(published) == 1
