"""What a generated service's own registry brings along, and a durable of another name."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from app import events
from app.consumers.registry import consumers as services_own
from jetstream_bridge import Bridge, Consumers, Event, Retry, Unrecoverable
from jetstream_bridge.testing import Deliver, Outcome
from tests.logged import logged


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


class TestOneLineForEachEvent:
    """As a generated service logs by default: with the middlewares of its own registry."""

    @pytest.fixture
    def consumers(self) -> Consumers:
        consumers = Consumers()
        consumers.use(*services_own.middlewares.parts)

        @consumers.on("order.placed")
        async def handle(event: Event[dict[str, Any]]) -> None:
            if event.resource_id == "again":
                raise Retry("not yet", delay=2)
            if event.resource_id == "never":
                raise Unrecoverable("no such product")

        return consumers

    async def test_in_json(self, deliver: Deliver) -> None:
        with logged("json") as stream:
            await deliver("order.placed", {"id": "fine", "card": "of-a-person"}, event_id="e1")
            await deliver("order.placed", {"id": "fine", "card": "of-a-person"}, event_id="e1")
            await deliver("order.placed", {"id": "again", "card": "of-a-person"}, event_id="e2")
            await deliver("order.placed", {"id": "never", "card": "of-a-person"}, event_id="e3")
            await deliver("nobody.cares", {"id": 1, "card": "of-a-person"}, event_id="e4")
        lines = [json.loads(line) for line in stream.getvalue().splitlines()]
        told = [line for line in lines if "event_id" in line]
        assert [(line["event_id"], line["outcome"], line["level"]) for line in told] == [
            ("e1", "processed", "info"),
            ("e1", "duplicate", "info"),
            ("e2", "retried", "warning"),
            ("e3", "dead_lettered", "error"),
            ("e4", "ignored", "info"),
        ]
        first = told[0]
        assert (first["event_type"], first["resource"]) == ("order.placed", "order:fine")
        assert first["trace_id"] and first["milliseconds"] > 0
        called = {line["event_id"]: line["milliseconds"] is not None for line in told[1:]}
        assert called == {"e1": False, "e2": True, "e3": True, "e4": False}
        assert "of-a-person" not in stream.getvalue()

    async def test_on_a_terminal(self, deliver: Deliver) -> None:
        with logged("console") as stream:
            await deliver("order.placed", {"id": "fine", "card": "of-a-person"}, event_id="e1")
        [line] = [line for line in stream.getvalue().splitlines() if "event_id=" in line]
        assert "event processed" in line
        for field in ("event_type=order.placed", "resource=order:fine", "outcome=processed"):
            assert field in line
        assert re.search(r"trace_id=\w+", line) and re.search(r"milliseconds=\d", line)
