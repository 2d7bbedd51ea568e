"""What a generated service's own registry brings along, and a durable of another name."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from app import events
from app.bridge import Bridge, Consumers, Event
from app.bridge.testing import Deliver, Outcome
from app.consumers.registry import consumers as services_own


class TestADurableOfAnotherName:
    @pytest.fixture
    def consumers(self) -> Consumers:
        consumers = Consumers()

        @consumers.on("order.placed", durable="orders-v2")
        async def handle(event: Event[dict[str, Any]]) -> None: ...

        return consumers

    async def test_is_followed_by_deliver(self, deliver: Deliver, bridge: Bridge) -> None:
        assert (await deliver("order.placed", {"id": 1})).processed
        assert bridge.durable() == "orders-v2"
        assert bridge.durable("elsewhere") == "test-orders-workers-elsewhere"


async def test_the_services_metrics_count_what_it_consumes(
    deliver: Deliver, client: httpx.AsyncClient
) -> None:
    async def ignored() -> float:
        lines = (await client.get("/metrics")).text.splitlines()
        counted = 'bridge_consumed_total{event_type="other",outcome="ignored"} '
        return sum(float(line.removeprefix(counted)) for line in lines if line.startswith(counted))

    before = await ignored()
    assert (await deliver("nobody.cares")).outcome is Outcome.IGNORED
    assert await ignored() == before + 1


def test_an_up_caster_is_registered_with_the_services_events() -> None:
    assert events.upcast == services_own.upcast
