"""Events of one resource are handled in stream order, whatever became of those who had them before.

A consumer of NATS' own client plays the worker that died: it takes messages and ends none.
"""

from __future__ import annotations

import asyncio

import pytest
from nats.aio.msg import Msg
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import Consumers, Event, Retry
from jetstream_bridge.core.errors import PermissionDeniedError
from jetstream_bridge.nats.management import Json, StreamApi
from tests.bridge.consuming import DURABLE, STREAM, SUBJECT, Change, Service, insert
from tests.bridge.support import envelope
from tests.waiting import eventually

ACK_WAIT = 1.5  # seconds


class Handled:
    """What was handled, in order: numbers by resource, and all together."""

    def __init__(self) -> None:
        self.by_resource: dict[str, list[int]] = {}
        self.all: list[int] = []
        self.failing: dict[int, float] = {}  # fails once, and comes again after so many seconds
        self.slow: dict[int, float] = {}

    def consumers(self) -> Consumers:
        consumers = Consumers()

        @consumers.on("order.changed", isolated=True)
        async def note(event: Event[Change], session: AsyncSession) -> None:
            n = event.payload.n
            await asyncio.sleep(self.slow.get(n, 0.0))
            if (delay := self.failing.pop(n, None)) is not None:
                raise Retry("later", delay=delay)
            self.by_resource.setdefault(event.resource_id, []).append(n)
            self.all.append(n)
            await insert(session, n)

        return consumers


async def send(service: Service, *numbers: int, resource: str = "r") -> None:
    for n in numbers:
        await service.send(envelope(f"e{n}", resource=resource, n=n))


async def make_durable(service: Service, **changes: object) -> None:
    async with service.working(Consumers(), ack_wait=ACK_WAIT, **changes):
        pass


async def took(service: Service, number: int) -> list[Msg]:
    """Somebody else takes so many, and is never heard of again."""
    pulled = await service.client.jetstream().pull_subscribe_bind(DURABLE, STREAM)
    messages: list[Msg] = []
    while len(messages) < number:
        messages += await pulled.fetch(number - len(messages), timeout=10)
    await pulled.unsubscribe()
    return messages


@pytest.mark.parametrize("retention", ["workqueue", "limits"])
async def test_what_a_dead_worker_had_in_hand_comes_before_what_is_newer(
    service: Service, retention: str
) -> None:
    if retention == "limits":
        await service.client.jetstream().delete_stream(STREAM)
        subjects = [SUBJECT, "test.billing.sync.orders", "test.billing.sync.dlq"]
        await service.client.jetstream().add_stream(name=STREAM, subjects=subjects)
    await make_durable(service)
    await send(service, 1, 2)
    await send(service, 3, resource="s")
    await took(service, 3)
    await send(service, 4, 5)
    await send(service, 6, resource="t")
    handled = Handled()
    async with service.working(handled.consumers(), ack_wait=ACK_WAIT):
        await eventually(lambda: len(handled.all) == 6)
    assert handled.by_resource == {"r": [1, 2, 4, 5], "s": [3], "t": [6]}
    assert handled.all[0] == 6, "a resource of which nothing is outstanding does not wait"


async def test_what_waits_for_its_next_try_elsewhere_comes_before_what_was_given_back(
    service: Service,
) -> None:
    await make_durable(service)
    await send(service, 1, 2, 3, 4)
    first, *rest = await took(service, 4)
    await first.nak(delay=1.0)
    for message in rest:
        await message.nak()
    handled = Handled()
    async with service.working(handled.consumers(), ack_wait=ACK_WAIT):
        await eventually(lambda: len(handled.all) == 4)
    assert handled.all == [1, 2, 3, 4]


async def test_messages_that_went_astray_while_the_worker_works_are_noticed(
    service: Service,
) -> None:
    """Delivered to a connection that is half gone, for instance: the consumer's count jumps."""
    handled = Handled()
    async with service.working(handled.consumers(), ack_wait=ACK_WAIT, worker_exclusive=True):
        await send(service, 1)
        await eventually(lambda: handled.all == [1])
        stray = await service.client.jetstream().pull_subscribe_bind(DURABLE, STREAM)
        taking = asyncio.create_task(stray.fetch(1, timeout=10))
        sent = 1
        while not taking.done():  # the server gives each of the two its turn
            sent += 1
            await send(service, sent)
            await asyncio.wait({taking}, timeout=0.05)
        await stray.unsubscribe()
        await send(service, sent + 1, sent + 2)
        await eventually(lambda: len(handled.all) == sent + 2)
    assert handled.all == list(range(1, sent + 3))


async def test_followers_wait_for_as_long_as_their_event_is_tried_elsewhere(
    service: Service,
) -> None:
    """Longer than the server waits, and twice as long: patience is no reason to overtake."""
    handled = Handled()
    handled.failing = {1: 0.05}
    async with service.working(handled.consumers(), ack_wait=0.3, max_deliver=1000):
        stray = await service.client.jetstream().pull_subscribe_bind(DURABLE, STREAM)
        taking = asyncio.create_task(stray.fetch(1, timeout=10))
        await send(service, 1)
        while not taking.done():  # the server gives each of the two its turn
            handled.failing = {1: 0.05}
            await asyncio.wait({taking}, timeout=0.02)
        [message] = taking.result()
        await send(service, 2)
        for _ in range(30):
            await message.in_progress()
            await service.broker.passes(0.1)
            assert handled.all == []
        await message.ack()
        await eventually(lambda: handled.all == [2])
        await stray.unsubscribe()


async def test_without_the_right_to_read_the_stream_all_wait_for_what_is_outstanding(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object, **__: object) -> Json:
        raise PermissionDeniedError("NATS does not permit this user to publish on it")

    monkeypatch.setattr(StreamApi, "next_message", refused)
    await make_durable(service)
    await send(service, 1, 2)
    await took(service, 2)
    await send(service, 3)
    await send(service, 4, resource="s")
    handled = Handled()
    async with service.working(handled.consumers(), ack_wait=ACK_WAIT):
        await eventually(lambda: len(handled.all) == 4)
    assert handled.by_resource == {"r": [1, 2, 3], "s": [4]}


async def test_a_stopping_worker_gives_back_so_that_nothing_overtakes(service: Service) -> None:
    handled = Handled()
    handled.failing = {1: 1.0}
    async with service.working(handled.consumers(), ack_wait=ACK_WAIT, shutdown_grace=0.2):
        await send(service, 1, 2, 3, 4)
        await eventually(lambda: not handled.failing)
    async with service.working(handled.consumers(), ack_wait=ACK_WAIT):
        await send(service, 5)
        await eventually(lambda: len(handled.all) == 5)
    assert handled.all == [1, 2, 3, 4, 5]
