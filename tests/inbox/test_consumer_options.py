"""What one registration may have of its own: tries, pauses, limits, its source's durable."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
import structlog
from sqlalchemy import event as sqlalchemy_event
from sqlmodel.ext.asyncio.session import AsyncSession
from structlog.stdlib import BoundLogger

from jetstream_bridge import Consumers, Delays, Event, Publisher, Retry, RetryStrategy
from jetstream_bridge.core.delays import Backoff
from tests.bridge.consuming import DURABLE, STREAM, Change, Service, insert, letter
from tests.bridge.support import envelope
from tests.waiting import eventually


class Counting:
    """A strategy of a test's own that keeps what it was asked."""

    def __init__(self, *delays: float | None) -> None:
        self.asked: list[int] = []
        self._delays = delays

    def delay(self, attempt: int, /) -> float | None:
        self.asked.append(attempt)
        return self._delays[attempt - 1]


def failing(
    consumers: Consumers, event_type: str = "order.changed", **options: Any
) -> list[tuple[int, float]]:
    """Register a handler that always fails; return its deliveries and their moments."""
    tries: list[tuple[int, float]] = []

    @consumers.on(event_type, **options)
    async def fail(event: Event[dict[str, Any]]) -> None:
        tries.append((event.metadata.deliveries, asyncio.get_running_loop().time()))
        raise ValueError("not today")

    return tries


async def test_several_types_come_to_one_handler(service: Service) -> None:
    consumers = Consumers()
    seen: list[str] = []

    @consumers.on("order.changed", "invoice.*")
    async def handle(event: Event[dict[str, Any]]) -> None:
        seen.append(event.type)

    for number, kind in enumerate(("order", "invoice", "team")):
        await service.send(envelope(f"e{number}", kind=kind))
    async with service.working(consumers):
        await eventually(service.is_empty)
    assert sorted(seen) == ["invoice.changed", "order.changed"]


async def test_a_handler_may_have_fewer_tries_than_the_others(service: Service) -> None:
    consumers = Consumers()
    few = failing(consumers, "order.changed", max_deliver=1)
    many = failing(consumers, "invoice.changed")
    await service.send(envelope("e1"))
    await service.send(envelope("e2", kind="invoice"))
    async with service.working(consumers, max_deliver=3, backoff=(0.1,)):
        await eventually(service.is_empty)
    assert [tries for tries, _ in few] == [1]
    assert {tries for tries, _ in many} == {1, 2, 3}
    deliveries = {letter(dead)["event_id"]: letter(dead) for dead in await service.dead_letters()}
    assert (deliveries["e1"]["deliveries"], deliveries["e2"]["deliveries"]) == (1, 3)


async def test_a_handler_may_have_a_retry_strategy_of_its_own(service: Service) -> None:
    consumers = Consumers(retry=Backoff([0.1], jitter=0))
    own = failing(consumers, "order.changed", retry=Backoff([1.0], jitter=0))
    shared = failing(consumers, "invoice.changed")
    await service.send(envelope("e1"))
    await service.send(envelope("e2", kind="invoice"))
    async with service.working(consumers, max_deliver=2, backoff=(60.0,)):
        await eventually(service.is_empty)
    first, second = own[-2:]
    assert second[1] - first[1] >= 0.95
    first, second = shared[-2:]
    assert 0.05 <= second[1] - first[1] < 0.9


async def test_a_strategy_that_gives_up_sends_to_the_dead_letters(service: Service) -> None:
    consumers = Consumers()
    strategy = Counting(0.1, None)
    failing(consumers, retry=strategy)
    await service.send(envelope("e1"))
    async with service.working(consumers, max_deliver=5):
        await eventually(service.is_empty)
    [dead] = await service.dead_letters()
    assert (letter(dead)["reason"], letter(dead)["deliveries"]) == ("max_deliver_exceeded", 2)
    assert letter(dead)["error_message"] == "not today"
    assert strategy.asked == [1, 2]


async def test_the_handlers_own_delay_wins_over_its_strategy(service: Service) -> None:
    consumers = Consumers()
    strategy = Counting(None)
    times: list[float] = []

    @consumers.on("order.changed", retry=strategy)
    async def handle(event: Event[Change]) -> None:
        times.append(asyncio.get_running_loop().time())
        if event.metadata.deliveries == 1:
            raise Retry(delay=0.5)

    await service.send(envelope("e1", n=1))
    async with service.working(consumers):
        await eventually(service.is_empty)
    assert len(times) == 2 and times[1] - times[0] >= 0.45
    assert strategy.asked == []


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), -1.0, "soon"])
async def test_a_strategy_that_answers_nonsense_does_not_lose_the_event(
    service: Service, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def delay(self, attempt: int, /) -> float | None:
            return answer  # type: ignore[no-any-return]

    assert isinstance(Broken(), RetryStrategy)
    consumers = Consumers()
    tries = failing(consumers, retry=Broken())
    await service.send(envelope("e1"))
    async with service.working(consumers, max_deliver=2, backoff=(0.1,)) as bridge:
        await eventually(service.is_empty)
        assert bridge.failures() == []
    assert [number for number, _ in tries] == [1, 2]
    assert "BACKOFF decides" in caplog.text


async def test_delays_that_are_used_up_end_the_tries(service: Service) -> None:
    consumers = Consumers()
    tries = failing(consumers, retry=Delays([0.1, 0.1]))
    await service.send(envelope("e1"))
    async with service.working(consumers, max_deliver=9):
        await eventually(service.is_empty)
    assert [number for number, _ in tries] == [1, 2, 3]


async def test_a_batch_size_bounds_how_many_of_its_events_share_a_transaction(
    service: Service,
) -> None:
    consumers = Consumers()
    shares: list[int] = []
    begun: set[int] = set()

    @consumers.on("order.changed", batch_size=3)
    async def handle(event: Event[Change], session: AsyncSession) -> None:
        if id(session) not in begun:
            begun.add(id(session))
            shares.append(0)
            sqlalchemy_event.listen(
                session.sync_session, "after_commit", lambda _: begun.discard(id(session))
            )
        shares[-1] += 1

    await service.send_many(40, resources=40)
    async with service.working(consumers, worker_concurrency=1):
        await eventually(service.is_empty)
    assert sum(shares) == 40
    assert max(shares) == 3


async def test_a_concurrency_bounds_its_handler_and_no_other(service: Service) -> None:
    """Without the inbox, for on SQLite its write lock lets one transaction run at a time."""
    consumers = Consumers()
    running = {"order": 0, "invoice": 0}
    most = {"order": 0, "invoice": 0}

    async def work(event: Event[dict[str, Any]]) -> None:
        kind = event.resource_type
        running[kind] += 1
        most[kind] = max(most[kind], running[kind])
        await asyncio.sleep(0.05)  # the work of this handler
        running[kind] -= 1

    consumers.on("order.changed", concurrency=2, isolated=True)(work)
    consumers.on("invoice.changed", isolated=True)(work)
    for n in range(12):
        await service.send(envelope(f"o{n}", resource=str(n)))
        await service.send(envelope(f"i{n}", resource=str(n), kind="invoice"))
    async with service.working(consumers, use_inbox=False, worker_concurrency=6):
        await eventually(service.is_empty, limit=20)
    assert most["order"] == 2
    assert most["invoice"] > 2


async def test_a_limited_handler_keeps_the_order_of_each_resource(service: Service) -> None:
    consumers = Consumers()
    seen: dict[str, list[int]] = {}

    @consumers.on("order.changed", concurrency=1, batch_size=2)
    async def handle(event: Event[Change], session: AsyncSession) -> None:
        seen.setdefault(event.resource_id, []).append(event.payload.n)
        await insert(session, event.payload.n)

    await service.send_many(60, resources=4)
    async with service.working(consumers):
        await eventually(service.is_empty, limit=20)
    assert sorted(await service.effects()) == list(range(60))
    assert all(numbers == sorted(numbers) for numbers in seen.values())


async def test_a_durable_of_another_name_is_the_one_that_is_pulled_from(service: Service) -> None:
    consumers = Consumers()
    seen: list[str] = []

    @consumers.on("order.changed", durable="billing-v2", ack_wait="7s")
    async def handle(event: Event[dict[str, Any]]) -> None:
        seen.append(event.metadata.consumer)

    await service.send(envelope("e1"))
    async with service.working(consumers) as bridge:
        await eventually(service.is_empty)
        assert bridge.durable() == "billing-v2"
    [info] = await service.client.jetstream().consumers_info(STREAM)
    assert (info.name, info.config.ack_wait) == ("billing-v2", 7.0)
    assert seen == ["billing-v2"]


async def test_a_durable_that_was_renamed_says_which_one_to_delete(service: Service) -> None:
    old, new = Consumers(), Consumers()
    keeping: list[str] = []

    async def handle(event: Event[dict[str, Any]]) -> None:
        keeping.append(event.event_id)

    old.on("order.changed")(handle)
    new.on("order.changed", durable="billing-v2")(handle)
    async with service.working(old):
        pass
    await service.send(envelope("e1"))
    async with service.bridge(new) as bridge:

        def told() -> bool:
            return "delete that one to make billing-v2" in str(bridge.checks())

        await eventually(told)
        assert DURABLE in str(bridge.checks()["stream"].detail)
        await service.client.jetstream().delete_consumer(STREAM, DURABLE)
        await eventually(lambda: keeping == ["e1"], limit=20)


async def test_a_short_ack_wait_of_a_source_is_kept_alive_by_its_own_measure(
    service: Service,
) -> None:
    consumers = Consumers()
    runs: list[int] = []

    @consumers.on("order.changed", ack_wait="1s")
    async def slow(event: Event[Change]) -> None:
        runs.append(event.payload.n)
        await asyncio.sleep(2.5)  # the work of this handler, longer than two ack_waits

    await service.send(envelope("e1", n=1))
    async with service.working(consumers):
        await eventually(service.is_empty, limit=20)
    assert runs == [1]


async def test_a_handler_gets_what_it_asks_for(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    consumers = Consumers()
    structlog.configure(
        processors=[structlog.stdlib.render_to_log_kwargs],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=BoundLogger,
    )

    @consumers.on("order.changed")
    async def handle(
        event: Event[Change],
        session: AsyncSession,
        events: Publisher,
        log: logging.Logger,
        bound: BoundLogger,
    ) -> None:
        await insert(session, event.payload.n)
        await events.publish("invoice.made", {"id": 1})
        log.warning("plain")
        bound.warning("bound", n=event.payload.n)

    await service.send(envelope("e1", n=1))
    try:
        async with service.working(consumers):
            await eventually(service.is_empty)
    finally:
        structlog.reset_defaults()
    assert await service.effects() == [1]
    plain, bound = (r for r in caplog.records if r.name == __name__)
    assert plain.getMessage() == "plain"
    fields = bound.__dict__
    assert (bound.getMessage(), fields["n"]) == ("bound", 1)
    assert (fields["event_id"], fields["event_type"], fields["trace_id"]) == (
        "e1",
        "order.changed",
        "t",
    )
