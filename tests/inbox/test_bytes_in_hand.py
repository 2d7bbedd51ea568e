"""What a worker holds is bounded in bytes: of large events, and of those that wait for another."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from jetstream_bridge import Consumers, Event, Retry
from tests.bridge.consuming import Service
from tests.bridge.support import envelope
from tests.waiting import eventually

SIZE = 300_000  # bytes of one event
MOST = 3_000_000  # bytes that the worker may hold
ONE_MORE = 2 * SIZE  # beside it: what a request for one message of any size may bring

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class Watched:
    """What the server has delivered and not heard of again, and what was handled."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.most = 0
        self.seen: list[str] = []
        self.tries: Counter[str] = Counter()

    async def out(self) -> int:
        """Bytes that the worker holds, as the server sees it."""
        out = (await self.service.info()).num_ack_pending or 0
        self.most = max(self.most, out * SIZE)
        return out

    async def send(self, event_id: str, *, resource: str) -> None:
        await self.service.send(envelope(event_id, resource=resource, blob="x" * SIZE))

    async def have_ended(self, number: int) -> bool:
        await self.out()
        return len(self.seen) >= number


async def test_followers_of_an_event_that_is_tried_again_stay_within_the_bytes(
    service: Service,
) -> None:
    watched = Watched(service)
    consumers = Consumers()
    fails = True

    @consumers.on("order.changed", max_deliver=1000)
    async def handle(event: Event[dict[str, Any]]) -> None:
        watched.tries[event.event_id] += 1
        if event.event_id == "e0" and fails:
            raise Retry(delay=0.2)
        watched.seen.append(event.event_id)

    async with service.working(consumers, worker_max_bytes=MOST) as bridge:
        for n in range(24):
            await watched.send(f"e{n}", resource="same")

        async def is_full() -> bool:
            return await watched.out() * SIZE > MOST // 2

        await eventually(is_full)
        await eventually(lambda: watched.tries["e0"] > 3)
        fails = False
        await eventually(lambda: watched.have_ended(24), limit=30)
        assert bridge.checks()["consumers"].ok
    assert watched.seen == [f"e{n}" for n in range(24)]
    assert {watched.tries[f"e{n}"] for n in range(1, 24)} == {1}
    assert watched.most <= MOST + ONE_MORE


async def test_large_events_are_taken_in_within_the_bytes(service: Service) -> None:
    watched = Watched(service)
    consumers = Consumers()
    go_on = asyncio.Event()

    @consumers.on("order.changed")
    async def handle(event: Event[dict[str, Any]]) -> None:
        await go_on.wait()
        watched.seen.append(event.event_id)

    for n in range(24):
        await watched.send(f"e{n}", resource=str(n))
    async with service.working(consumers, worker_max_bytes=MOST, worker_concurrency=64):

        async def is_full() -> bool:
            return await watched.out() * SIZE > MOST // 2

        await eventually(is_full)
        go_on.set()
        await eventually(lambda: watched.have_ended(24), limit=30)
    assert sorted(watched.seen) == sorted(f"e{n}" for n in range(24))
    assert watched.most <= MOST + ONE_MORE


async def test_an_event_larger_than_all_the_room_is_handled_alone(service: Service) -> None:
    watched = Watched(service)
    consumers = Consumers()

    @consumers.on("order.changed")
    async def handle(event: Event[dict[str, Any]]) -> None:
        watched.seen.append(event.event_id)

    async with service.working(consumers, worker_max_bytes=1024):
        for n in range(5):
            await watched.send(f"e{n}", resource=str(n))
        await eventually(lambda: watched.have_ended(5))
    assert watched.most <= 2 * SIZE
