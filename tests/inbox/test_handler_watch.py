"""A handler that hangs is named, stopped at its limit and tried again, and readiness says so."""

from __future__ import annotations

import asyncio
import logging

import pytest
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import Consumers, Event
from jetstream_bridge.inbox.handler_watch import LONG_AFTER
from jetstream_bridge.inbox.middleware import Timeout
from tests.bridge.consuming import Change, Service, insert, letter
from tests.bridge.support import envelope
from tests.waiting import eventually


async def test_a_handler_that_hangs_is_stopped_at_the_limit_and_tried_again(
    service: Service,
) -> None:
    consumers = Consumers()
    cancelled: list[int] = []

    @consumers.on("order.changed")
    async def change(event: Event[Change], session: AsyncSession) -> None:
        await insert(session, event.payload.n)
        if not cancelled:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(event.payload.n)
                raise

    async with service.working(consumers, handler_timeout=0.5):
        await service.send(envelope("e1", n=1))
        await eventually(service.is_empty)

    assert (cancelled, await service.effects()) == ([1], [1])


async def test_one_that_hangs_each_time_ends_as_a_letter_and_harms_no_other(
    service: Service,
) -> None:
    consumers = Consumers()

    @consumers.on("order.changed")
    async def change(event: Event[Change], session: AsyncSession) -> None:
        await insert(session, event.payload.n)
        if event.payload.n == 3:
            await asyncio.Event().wait()

    async with service.working(consumers, handler_timeout=0.3, max_deliver=2):
        await service.send_many(6, resources=6)
        await eventually(service.is_empty, limit=20)

    assert sorted(await service.effects()) == [0, 1, 2, 4, 5]
    [dead] = await service.dead_letters()
    assert letter(dead)["error_class"] == "HandlerTimeoutError"


async def test_a_handler_that_keeps_its_cancellation_to_itself_is_late_all_the_same(
    service: Service,
) -> None:
    consumers = Consumers()
    runs: list[int] = []

    @consumers.on("order.changed")
    async def change(event: Event[Change], session: AsyncSession) -> None:
        runs.append(event.payload.n)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    async with service.working(consumers, handler_timeout=0.3, max_deliver=2):
        await service.send(envelope("e1", n=1))
        await eventually(service.is_empty, limit=20)

    assert (runs, len(await service.dead_letters())) == ([1, 1], 1)


async def test_a_limit_of_its_own_takes_the_place_of_the_setting(service: Service) -> None:
    consumers = Consumers()

    @consumers.on("order.changed", middlewares=[Timeout("30s")])
    async def change(event: Event[Change], session: AsyncSession) -> None:
        await asyncio.sleep(2)
        await insert(session, event.payload.n)

    async with service.working(consumers, handler_timeout=0.3):
        await service.send(envelope("e1", n=1))
        await service.broker.passes(3)
        await eventually(service.is_empty)

    assert await service.effects() == [1]
    assert await service.dead_letters() == []


@pytest.mark.parametrize("broker", ["mock"], indirect=True)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_who_runs_long_is_named_and_readiness_says_when_nobody_is_free(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    consumers = Consumers()
    go_on = asyncio.Event()

    @consumers.on("order.changed", isolated=True)
    async def change(event: Event[Change]) -> None:
        await go_on.wait()

    async with service.working(consumers, worker_concurrency=2, use_inbox=False) as bridge:
        await service.send(envelope("e1", resource="1", n=1))
        await service.broker.passes(LONG_AFTER + 5)
        assert bridge.checks()["consumers"].ok, "one slot is free"
        await service.send(envelope("e2", resource="2", n=2))
        await service.broker.passes(LONG_AFTER + 5)
        detail = bridge.checks()["consumers"].detail or ""
        assert "all 2 slots are held by handlers that run long" in detail
        assert "change with order.changed e1 for" in detail
        go_on.set()
        await eventually(service.is_empty)
        assert bridge.checks()["consumers"].ok

    told = [record for record in caplog.records if "handler has run for" in record.message]
    assert told[0].levelno == logging.WARNING
    fields = vars(told[0])
    assert (fields["event_id"], fields["event_type"]) == ("e1", "order.changed")
    assert fields["seconds"] >= LONG_AFTER and "test_handler_watch.py" in fields["handler"]
    assert len(told) <= 4, "each time twice as long"
