"""However a handler ends: it counts as its failure, has a line, and stops nothing else."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import Consumers, Event
from jetstream_bridge.core.errors import HandlerExitError
from jetstream_bridge.inbox.middleware import CallNext
from tests.bridge.consuming import Change, Service, insert, letter
from tests.waiting import eventually

Deed = Callable[[], Awaitable[object]]


async def _raises(error: BaseException) -> None:
    raise error


async def _cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(10)


async def _awaits_what_was_cancelled() -> None:
    task = asyncio.ensure_future(asyncio.Event().wait())
    task.cancel()
    await task


async def _leaves_a_time_limit_behind() -> None:
    await asyncio.timeout(0.01).__aenter__()
    await asyncio.sleep(0.1)


DEEDS: dict[str, Deed] = {
    "CancelledError": lambda: _raises(asyncio.CancelledError("of my own")),
    "cancels itself": _cancels_itself,
    "awaits what was cancelled": _awaits_what_was_cancelled,
    "leaves a time limit": _leaves_a_time_limit_behind,
    "SystemExit": lambda: _raises(SystemExit(3)),
    "KeyboardInterrupt": lambda: _raises(KeyboardInterrupt()),
    "GeneratorExit": lambda: _raises(GeneratorExit()),
    "BaseException": lambda: _raises(BaseException("odd")),
    "a group": lambda: _raises(BaseExceptionGroup("some", [asyncio.CancelledError()])),
}


@pytest.mark.parametrize("where", ["handler", "middleware"])
async def test_an_end_of_its_own_making_is_a_failure_of_the_handler(
    service: Service, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    names = dict(enumerate(DEEDS))
    runs: dict[int, int] = dict.fromkeys(names, 0)
    consumers = Consumers()

    async def misbehave(n: int) -> None:
        if n in names:
            runs[n] += 1
            await DEEDS[names[n]]()

    async def around(event: Event[Change], call_next: CallNext) -> None:
        await call_next()
        if where == "middleware":
            await misbehave(event.payload.n)

    consumers.use(around)

    @consumers.on("order.changed")
    async def handle(event: Event[Change], session: AsyncSession) -> None:
        await insert(session, event.payload.n)
        if where == "handler":
            await misbehave(event.payload.n)

    number = len(names) + 20
    await service.send_many(number, resources=number)
    async with service.working(consumers, max_deliver=2, backoff=(0.05,)) as bridge:
        await eventually(service.is_empty, limit=20)
        assert bridge.checks()["consumers"].ok
        assert bridge.failures() == []
    assert sorted(await service.effects()) == list(range(len(names), number))
    letters = {letter(dead)["event_id"]: letter(dead) for dead in await service.dead_letters()}
    assert sorted(letters) == sorted(f"e{n}" for n in names)
    assert {said["error_class"] for said in letters.values()} == {HandlerExitError.__name__}
    # Two tries, and before each of them at most one run for each time that a batch was halved.
    most = 2 * (1 + math.ceil(math.log2(number)))
    assert all(count <= most for count in runs.values()), runs
    inbox = await service.inbox()
    assert {inbox[f"e{n}"][0] for n in names} == {"dead_lettered"}
    assert caplog.text.count("event failed, again in") == len(names)


async def test_a_cancellation_that_strikes_after_the_handler_strikes_no_other(
    service: Service,
) -> None:
    """A handler that returned leaves nothing behind that could cancel the worker's own work."""
    consumers = Consumers()

    @consumers.on("order.changed", isolated=True)
    async def handle(event: Event[Change], session: AsyncSession) -> None:
        await insert(session, event.payload.n)
        if event.payload.n % 2:
            await asyncio.timeout(0.0).__aenter__()  # it strikes when something is awaited next

    await service.send_many(10, resources=10)
    async with service.working(consumers, max_deliver=3, backoff=(0.05,)) as bridge:
        await eventually(service.is_empty, limit=20)
        assert bridge.failures() == []
    dead = {letter(message)["event_id"] for message in await service.dead_letters()}
    done = set(await service.effects())
    assert {0, 2, 4, 6, 8} <= done
    assert dead == {f"e{n}" for n in range(10) if n not in done}


async def test_a_stop_is_none_of_the_handlers_doing(service: Service) -> None:
    consumers = Consumers()
    begun = asyncio.Event()

    @consumers.on("order.changed")
    async def hangs(event: Event[Change]) -> None:
        begun.set()
        await asyncio.Event().wait()

    await service.send_many(1, resources=1)
    for _ in range(2):
        begun.clear()
        async with service.working(consumers, max_deliver=1, shutdown_grace=0.05):
            await begun.wait()
    assert await service.inbox() == {}
    assert await service.dead_letters() == []
