"""Handlers that take a list of events: how it is filled, its order, what a poison event costs."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from sqlmodel.ext.asyncio.session import AsyncSession
from structlog.stdlib import BoundLogger

from jetstream_bridge import Consumers, Event, Unrecoverable
from jetstream_bridge.core.errors import RegistrationError
from jetstream_bridge.inbox.batch_sizing import LONGEST_TRANSACTION
from jetstream_bridge.inbox.middleware import (
    CallNext,
    CallNextBatch,
    ErrorHandling,
    Logging,
    Timeout,
    Tracing,
)
from jetstream_bridge.inbox.single_run import split
from tests.bridge.consuming import Change, Service, insert, letter
from tests.bridge.support import envelope
from tests.waiting import eventually


class Lists:
    """A handler that takes lists of up to `batch`, and what it was handed."""

    def __init__(self, batch: int = 100, **options: Any) -> None:
        self.seen: list[list[int]] = []
        self.poison: set[int] = set()
        self.consumers = Consumers()

        @self.consumers.on("order.changed", batch=batch, **options)
        async def store(events: list[Event[Change]], session: AsyncSession) -> None:
            numbers = [event.payload.n for event in events]
            self.seen.append(numbers)
            for n in numbers:
                await insert(session, n)
            if self.poison & set(numbers):
                raise Unrecoverable(f"of {len(numbers)}")


async def test_events_that_are_there_come_in_one_list_in_stream_order(service: Service) -> None:
    lists = Lists()
    await service.send_many(100, resources=7)
    async with service.working(lists.consumers, worker_batch_size=10):
        await eventually(service.is_empty)
    assert [n for numbers in lists.seen for n in numbers] == list(range(100))
    assert all(numbers == sorted(numbers) for numbers in lists.seen)
    assert len(lists.seen) <= 4, "as much at once as is there, whatever the worker's own limit"
    assert await service.effects() == list(range(100))


async def test_a_list_has_no_more_than_the_registration_says(service: Service) -> None:
    lists = Lists(batch=8)
    await service.send_many(50, resources=50)
    async with service.working(lists.consumers):
        await eventually(service.is_empty)
    assert max(map(len, lists.seen)) <= 8
    assert sorted(await service.effects()) == list(range(50))


async def test_the_first_of_a_list_waits_for_more_as_long_as_is_said(service: Service) -> None:
    lists = Lists(batch=3, within="1s")
    async with service.working(lists.consumers):
        for n in range(3):
            await service.send(envelope(f"e{n}", resource=str(n), n=n))
        await eventually(lambda: lists.seen == [[0, 1, 2]], what="a full list goes at once")
        await service.send(envelope("e3", n=3))
        await eventually(lambda: lists.seen[1:] == [[3]], what="one that is not full goes in time")
        await eventually(service.is_empty)


async def test_a_list_that_fails_is_halved_until_the_poison_is_alone(service: Service) -> None:
    lists = Lists(batch=64, within="5s")
    lists.poison = {21}
    await service.send_many(64, resources=64)
    async with service.working(lists.consumers):
        await eventually(service.is_empty)
    assert [len(numbers) for numbers in lists.seen if 21 in numbers] == [64, 32, 16, 8, 4, 2, 1]
    assert len(lists.seen) == 13
    assert sorted(await service.effects()) == [n for n in range(64) if n != 21]
    [dead] = await service.dead_letters()
    assert letter(dead)["error_message"].startswith("of 1")


async def test_order_is_kept_around_one_that_fails_and_comes_again(service: Service) -> None:
    lists = Lists(batch=16)
    failed: set[int] = set()
    consumers = Consumers()

    @consumers.on("order.changed", batch=16)
    async def store(events: list[Event[Change]], session: AsyncSession) -> None:
        for event in events:
            if event.payload.n % 5 == 3 and event.payload.n not in failed:
                if len(events) == 1:
                    failed.add(event.payload.n)
                raise ValueError(event.payload.n)
            await insert(session, event.payload.n)

    await service.send_many(16, resources=2)
    async with service.working(consumers):
        await eventually(service.is_empty)
    effects = await service.effects()
    assert sorted(effects) == list(range(16))
    for rest in (0, 1):
        assert [n for n in effects if n % 2 == rest] == list(range(rest, 16, 2))
    assert lists.seen == []


async def test_lists_and_single_events_share_a_resource_and_no_transaction(
    service: Service,
) -> None:
    seen: list[Any] = []
    consumers = Consumers()

    @consumers.on("order.changed", batch=10)
    async def many(events: list[Event[Change]]) -> None:
        seen.append([event.payload.n for event in events])

    @consumers.on("order.closed")
    async def one(event: Event[Change]) -> None:
        seen.append(event.payload.n)

    kinds = ["changed", "changed", "closed", "closed", "changed"]
    for n, kind in enumerate(kinds):
        body = envelope(f"e{n}", resource="1", n=n).replace("order.changed", f"order.{kind}")
        await service.send(body.replace('"changed"', f'"{kind}"'))
    async with service.working(consumers):
        await eventually(service.is_empty)
    flat = [n for entry in seen for n in (entry if isinstance(entry, list) else [entry])]
    assert flat == [0, 1, 2, 3, 4]
    assert [entry for entry in seen if isinstance(entry, int)] == [2, 3]


async def test_a_known_event_is_left_out_of_the_list(service: Service) -> None:
    lists = Lists()
    await service.send_many(3, resources=1)
    async with service.working(lists.consumers):
        await eventually(service.is_empty)
        await service.send_many(5, resources=1)
        await eventually(service.is_empty)
    assert sorted(n for numbers in lists.seen for n in numbers) == [0, 1, 2, 3, 4]


async def test_middlewares_wrap_the_list_once(service: Service) -> None:
    class Around:
        def __init__(self) -> None:
            self.sizes: list[int] = []

        async def __call__(self, event: Event[Any], call_next: CallNext) -> None:
            raise AssertionError("it wraps single events")

        async def on_batch(self, events: list[Event[Any]], call_next: CallNextBatch) -> None:
            self.sizes.append(len(events))
            await call_next([event for event in events if event.payload.n != 1])

    told: list[str] = []
    around = Around()
    lists = Lists(batch=4, within="5s")
    handling = ErrorHandling(lambda event, error: told.append(event.event_id))
    lists.consumers.use(Tracing(), Logging(), Timeout("10s"), handling, around)
    lists.poison = {2}
    await service.send_many(4, resources=4)
    async with service.working(lists.consumers):
        await eventually(service.is_empty)
    assert around.sizes[:3] == [4, 2, 2]
    assert told == ["e2"], "an error is told once it is one event's"
    assert sorted(await service.effects()) == [0, 3]


async def test_a_logger_of_a_list_says_how_many_events_there_are(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    consumers = Consumers()
    bound: list[dict[str, Any]] = []

    @consumers.on("order.changed", batch=2, within="5s")
    async def store(events: list[Event[Change]], logger: BoundLogger) -> None:
        bound.append(dict(logger._context))

    await service.send_many(2, resources=2)
    async with service.working(consumers):
        await eventually(service.is_empty)
    assert bound == [{"events": 2, "event_type": "order.changed"}]


async def _single(event: Event[Change]) -> None: ...


async def _list(events: list[Event[Change]]) -> None: ...


async def _both(events: list[Event[Change]], event: Event[Change]) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        (_single, {"batch": 10}, r"_single is registered with batch=10; give it a parameter"),
        (_list, {}, r"_list takes a list of events; say how many at most: `batch=100`"),
        (_both, {"batch": 10}, "a list of events and one event; keep the list"),
        (_list, {"batch": 0}, "batch=0 is no number of times"),
        (_list, {"batch": 2000}, "batch=2000 is more than one transaction should hold"),
        (_list, {"batch": 10, "isolated": True}, "isolated=True is for a handler that takes one"),
        (_list, {"batch": 10, "batch_size": 5}, "batch_size=5 is for a handler that takes one"),
        (_list, {"batch": 10, "within": "1m"}, "within='1m' is out of range; write a time of up"),
        (_list, {"batch": 10, "within": "soon"}, "within='soon'"),
        (_single, {"within": "1s"}, "within='1s' is how long a batch is filled; say batch="),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    function: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(RegistrationError, match=said):
        Consumers().on("order.changed", **options)(function)


async def test_a_middleware_that_wraps_single_events_is_refused_around_a_list(
    service: Service,
) -> None:
    async def single(event: Event[Any], call_next: CallNext) -> None:
        await call_next(event)

    lists = Lists()
    lists.consumers.use(single)
    with pytest.raises(RegistrationError, match="wraps single ones; write `async def on_batch"):
        service.bridge(lists.consumers)


def test_a_batch_is_split_around_the_one_that_failed_or_else_halved() -> None:
    batch: list[Any] = list("abcde")
    cuts: list[tuple[Any, list[str]]] = [
        ("c", ["ab", "c", "de"]),
        ("a", ["a", "bcde"]),
        (None, ["ab", "cde"]),
    ]
    for failed, expected in cuts:
        portions: list[Any] = split(batch, failed)
        assert ["".join(portion) for portion in portions] == expected


async def test_one_poison_event_costs_its_neighbours_two_transactions(service: Service) -> None:
    runs: list[int] = []
    consumers = Consumers()

    @consumers.on("order.changed")
    async def store(event: Event[Change], session: AsyncSession) -> None:
        runs.append(event.payload.n)
        await insert(session, event.payload.n)
        if event.payload.n == 20:
            raise Unrecoverable("bad")

    await service.send_many(40, resources=40)
    async with service.working(consumers, worker_concurrency=1):
        await eventually(service.is_empty)
    assert sorted(await service.effects()) == [n for n in range(40) if n != 20]
    assert len(runs) <= 40 + 40, "those before it once more, it itself once more, and no others"


async def test_a_transaction_commits_in_time_though_handlers_became_slow(service: Service) -> None:
    begun: list[tuple[AsyncSession, float]] = []  # whose transaction, and when it began
    consumers = Consumers()

    @consumers.on("order.changed")
    async def store(event: Event[Change], session: AsyncSession) -> None:
        if event.payload.n >= 400:
            begun.append((session, asyncio.get_running_loop().time()))
            await asyncio.sleep(0.05)
        await insert(session, event.payload.n)

    await service.send_many(400, resources=400)
    async with service.working(consumers, worker_concurrency=1):
        await eventually(service.is_empty, limit=20)
        await service.send_many(60, resources=60, start=400)
        await eventually(service.is_empty, limit=30)
    assert sorted(await service.effects()) == list(range(460))
    assert len(begun) == 60, "what a transaction did not come to has not run in it"
    for transaction in {transaction for transaction, _ in begun}:
        moments = [moment for of, moment in begun if of == transaction]
        assert max(moments) - min(moments) <= LONGEST_TRANSACTION + 0.5
