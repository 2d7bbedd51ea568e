"""A peer's dead letters: put back so that its inbox takes them, a gem's or one of ours."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import pytest
from nats.aio.msg import Msg

from jetstream_bridge import Bridge, Consumers, Event, Unrecoverable
from jetstream_bridge.core.errors import InvalidSubjectError, NotFoundError, NotPossibleError
from jetstream_bridge.operations.dead_letter_queue import BulkOperation
from jetstream_bridge.operations.replaying import original_key
from tests.bridge.consuming import STREAM, SUBJECT, Service, recording
from tests.bridge.support import envelope
from tests.waiting import eventually

TO_ORDERS = "test.billing.sync.orders"
DEAD = "test.orders.sync.dlq"


@dataclass
class Gem:
    """The gem called `orders`, with its inbox: what it takes for an event's id, and its letters."""

    service: Service
    processed: set[str] = field(default_factory=set)
    handled: list[str] = field(default_factory=list)
    refuses: bool = True

    async def work(self, count: int) -> None:
        js = self.service.client.jetstream()
        gem = await js.pull_subscribe(TO_ORDERS, durable="test-orders-workers", stream=STREAM)
        for _ in range(count):
            [message] = await gem.fetch(1, timeout=5)
            await self._take(message)
            await message.ack_sync(timeout=5)
        await gem.unsubscribe()

    async def _take(self, message: Msg) -> None:
        body = json.loads(message.data)
        headers = {name.lower(): value for name, value in (message.headers or {}).items()}
        key = headers.get("nats-msg-id") or body["event_id"]
        if key in self.processed:
            return
        self.processed.add(key)  # a dead-lettered row says `processed` too
        if self.refuses:
            await self._dead_letter(message.data, headers)
        else:
            self.handled.append(body["event_id"])

    async def _dead_letter(self, body: bytes, headers: Mapping[str, str]) -> None:
        context = {"event_id": headers.get("nats-msg-id"), "original_subject": TO_ORDERS}
        added = {"x-dead-letter": "true", "x-dlq-reason": "unrecoverable"}
        added["x-dlq-context"] = json.dumps(context)
        js = self.service.client.jetstream()
        ack = await js.publish(DEAD, body, headers={**headers, **added})
        assert not ack.duplicate, "its dead letter would be lost"


@pytest.fixture
async def bridge(service: Service) -> AsyncIterator[Bridge]:
    await service.client.jetstream().update_stream(
        name=STREAM,
        subjects=[SUBJECT, TO_ORDERS, "test.billing.sync.dlq", DEAD],
        retention="workqueue",
    )
    async with service.relaying() as bridge:
        await eventually(lambda: bridge.connection.connected, what="the bridge is connected")
        yield bridge


async def test_what_a_gem_gave_up_is_handled_once_when_it_is_replayed(
    service: Service, bridge: Bridge
) -> None:
    gem = Gem(service)
    await service.send(envelope("e1"), subject=TO_ORDERS, headers={"Nats-Msg-Id": "e1"})
    await gem.work(1)
    letters = bridge.letters_of("orders")
    assert await bridge.letters.count() == 0
    [first] = (await letters.page()).items
    assert (first.reason, first.event_id, letters.obstacle(first)) == ("unrecoverable", "e1", None)

    await letters.replay(first)  # and the gem fails again
    await gem.work(1)
    [second] = (await letters.page()).items
    assert original_key(second) == "e1"

    gem.refuses = False
    done = await letters.replay_many(BulkOperation(limit=10))
    assert (done.count, done.skipped) == (1, 0)
    await gem.work(1)
    assert gem.handled == ["e1"]
    assert await letters.count() == 0


async def test_a_replay_that_was_interrupted_and_begun_again_takes_effect_once(
    service: Service, bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    gem = Gem(service)
    await service.send(envelope("e1"), subject=TO_ORDERS)
    await gem.work(1)
    gem.refuses = False
    letters = bridge.letters_of("orders")
    [letter] = (await letters.page()).items

    async def ends(*_: object) -> bool:
        raise TimeoutError

    with monkeypatch.context() as crash:
        crash.setattr(letters._reader.api, "delete_message", ends)
        with pytest.raises(TimeoutError):
            await letters.replay(letter)
    await letters.replay(letter)
    await gem.work(2)
    assert gem.handled == ["e1"]


async def test_a_peer_of_ours_knows_the_event_again(service: Service, bridge: Bridge) -> None:
    """Here `billing` is the peer, whose inbox has a row of the event."""
    consumers = Consumers()

    @consumers.on("order.changed")
    async def refuse(event: Event[dict]) -> None:  # type: ignore[type-arg]
        raise Unrecoverable("not wanted")

    async with service.working(consumers):
        await service.send(envelope("e1", n=1))
        await eventually(_has(service, "dead_lettered"), what="the event is put aside")
    letters = bridge.letters_of("billing")
    [letter] = (await letters.page()).items
    await letters.replay(letter)
    async with service.working(recording()):
        await eventually(_has(service, "processed"), what="the event is handled")
    assert await service.effects() == [1]
    assert list(await service.inbox()) == ["e1"]


def _has(service: Service, status: str) -> Callable[[], Awaitable[bool]]:
    async def has() -> bool:
        return {row[0] for row in (await service.inbox()).values()} == {status}

    return has


async def test_what_is_no_letter_of_the_peer_is_told(service: Service, bridge: Bridge) -> None:
    context = json.dumps({"original_subject": SUBJECT})
    await service.send(envelope("e1"), subject=DEAD, headers={"x-dlq-context": context})
    letters = bridge.letters_of("orders")
    [letter] = (await letters.page()).items
    with pytest.raises(NotPossibleError, match="which orders does not read"):
        await letters.replay(letter)
    with pytest.raises(NotFoundError, match="of this service"):
        await bridge.letters.get(letter.metadata.sequence)
    with pytest.raises(NotFoundError, match="of orders"):
        await letters.get(99)
    with pytest.raises(InvalidSubjectError):
        bridge.letters_of("a.b")
