"""A try is a run that failed by itself. Whoever may have ended a process runs with none beside."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from nats.aio.msg import Msg
from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import Consumers, Event
from tests.bridge.consuming import (
    DURABLE,
    STREAM,
    SUBJECT,
    Change,
    Service,
    insert,
    letter,
    recording,
)
from tests.bridge.support import rows
from tests.waiting import eventually


async def _give_back(service: Service, *, times: int, events: int = 1) -> None:
    """Have `events` events delivered `times` times to workers that do nothing with them."""
    async with service.working(Consumers()):
        pass  # the durable is there now, and nobody works on it
    await service.send_many(events, resources=events)
    pulled = await service.client.jetstream().pull_subscribe_bind(DURABLE, STREAM)
    for _ in range(times):
        messages: list[Msg] = []
        while len(messages) < events:
            messages += await pulled.fetch(events - len(messages), timeout=10)
        for message in messages:
            await message.nak()
    await pulled.unsubscribe()


async def _note(service: Service, **columns: Any) -> None:
    """Write what an earlier process left of the event e0."""
    async with service.engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO jetstream_inbox_events (consumer, event_id, subject, stream,"
                f" stream_seq, {', '.join(columns)})"
                f" VALUES ('{DURABLE}', 'e0', '{SUBJECT}', '{STREAM}', 1,"
                f" {', '.join(f':{name}' for name in columns)})"
            ),
            columns,
        )


async def _counts(service: Service) -> tuple[str, int, int]:
    """Return status, failures and unfinished runs of the event e0."""
    query = "SELECT status, failures, unfinished FROM jetstream_inbox_events WHERE event_id = 'e0'"
    database = service.engine.url.database
    if service.engine.dialect.name == "postgresql" or database is None:
        return tuple((await rows(service.engine, query))[0])
    with closing(sqlite3.connect(database)) as beside:  # a handler may hold the write lock
        return tuple(beside.execute(query).fetchone())


@pytest.mark.parametrize("use_inbox", [True, False], ids=["inbox", "no inbox"])
async def test_an_event_that_was_only_held_through_deploys_has_all_its_tries(
    service: Service, use_inbox: bool
) -> None:
    consumers = Consumers()
    runs: list[int] = []

    @consumers.on("order.changed")
    async def handle(event: Event[Change], session: AsyncSession) -> None:
        runs.append(event.metadata.deliveries)
        if len(runs) < 3:
            raise ValueError("not yet")
        await insert(session, event.payload.n)

    await _give_back(service, times=4)
    async with service.working(consumers, max_deliver=3, backoff=(0.05,), use_inbox=use_inbox):
        await eventually(service.is_empty)
    assert runs == [5, 6, 7]
    assert await service.effects() == [0]
    assert await service.dead_letters() == []
    inbox = await service.inbox()
    assert inbox == ({"e0": ("processed", None)} if use_inbox else {})


@pytest.mark.parametrize("use_inbox", [True, False], ids=["inbox", "no inbox"])
async def test_a_try_is_counted_in_the_events_row_and_strategies_get_that_count(
    service: Service, use_inbox: bool
) -> None:
    consumers = Consumers()
    asked: list[int] = []

    class Noting:
        def delay(self, attempt: int, /) -> float | None:
            asked.append(attempt)
            return 0.05

    @consumers.on("order.changed", retry=Noting())
    async def handle(event: Event[Change]) -> None:
        raise ValueError("never")

    await _give_back(service, times=3)
    async with service.working(consumers, max_deliver=3, use_inbox=use_inbox):
        await eventually(service.is_empty)
    assert asked == [1, 2]
    [dead] = await service.dead_letters()
    assert (dead.headers or {})["x-deliveries"] == "6", "the wire tells the server's count"
    assert letter(dead)["error_message"] == "never"
    if use_inbox:
        assert await _counts(service) == ("dead_lettered", 3, 0)
    else:
        assert await service.inbox() == {}


async def test_a_handler_that_is_stopped_in_its_last_try_has_not_used_it_up(
    service: Service,
) -> None:
    consumers = Consumers()
    begun = asyncio.Event()
    failed = 0

    @consumers.on("order.changed")
    async def hangs(event: Event[Change]) -> None:
        nonlocal failed
        if failed < 2:
            failed += 1
            raise ValueError("not yet")
        begun.set()
        await asyncio.Event().wait()

    await service.send_many(1, resources=1)
    for _ in range(3):
        begun.clear()
        async with service.working(consumers, max_deliver=3, backoff=(0.05,), shutdown_grace=0.05):
            await begun.wait()
        status, failures, unfinished = await _counts(service)
        assert (status, failures, unfinished) == ("failed", 2, 0)
    async with service.working(recording(), max_deliver=3):
        await eventually(service.is_empty)
    assert await service.effects() == [0]
    assert await service.dead_letters() == []


@pytest.mark.parametrize("use_inbox", [True, False], ids=["inbox", "no inbox"])
async def test_a_suspect_runs_with_none_beside_it_and_its_start_is_noted(
    service: Service, use_inbox: bool
) -> None:
    consumers = Consumers()
    running: set[int] = set()
    beside: dict[int, set[int]] = {n: set() for n in range(41)}
    noted: list[tuple[str, int, int]] = []

    @consumers.on("order.changed")
    async def handle(event: Event[Change]) -> None:
        n = event.payload.n
        running.add(n)
        for other in running:
            beside[other] |= running - {other}
        if n == 0:
            noted.append(await _counts(service))
        await asyncio.sleep(0.01)  # the work of this handler
        running.discard(n)

    await _give_back(service, times=2)
    await service.send_many(40, resources=40, start=1)
    async with service.working(consumers, worker_batch_size=2, use_inbox=use_inbox):
        await eventually(service.is_empty)
    assert beside[0] == set()
    assert noted == [("processing", 0, 1)]
    if use_inbox:
        assert await _counts(service) == ("processed", 0, 0)
    else:
        assert await service.inbox() == {}
    # On SQLite each handler's transaction holds the one write lock, once it has written.
    if service.engine.dialect.name == "postgresql" or not use_inbox:
        assert any(beside[n] for n in range(1, 41)), "all the others ran side by side"


async def test_events_that_came_once_more_are_no_suspects(service: Service) -> None:
    """A worker that stops gives back all that it held; the next one takes it as it comes."""
    await _give_back(service, times=1, events=50)

    async with service.working(recording()):
        await eventually(service.is_empty)
    found = await rows(service.engine, "SELECT status, unfinished FROM jetstream_inbox_events")

    assert len(found) == 50
    assert {tuple(row) for row in found} == {("processed", 0)}


@pytest.mark.parametrize("deaths", [1, 2, 3])
async def test_only_who_died_alone_as_often_as_it_may_be_tried_is_a_letter(
    service: Service, deaths: int
) -> None:
    await _give_back(service, times=5)
    await _note(service, deliveries=5, unfinished=deaths, status="processing")
    async with service.working(recording(), max_deliver=3):
        await eventually(service.is_empty)
    letters = await service.dead_letters()
    if deaths < 3:
        assert (letters, await service.effects()) == ([], [0])
        assert await _counts(service) == ("processed", 0, 0)
        return
    [dead] = letters
    assert (dead.headers or {})["x-dlq-reason"] == "max_deliver_exceeded"
    assert "ends its process" in letter(dead)["error_message"]
    assert await service.effects() == []
    assert await _counts(service) == ("dead_lettered", 0, 3)


async def test_one_death_alone_is_not_enough_for_a_letter(service: Service) -> None:
    """It may have been anybody's doing, also with MAX_DELIVER=1."""
    await _give_back(service, times=3)
    await _note(service, deliveries=3, unfinished=1, status="processing")
    async with service.working(recording(), max_deliver=1):
        await eventually(service.is_empty)
    assert await service.effects() == [0]
    assert await service.dead_letters() == []


async def test_an_event_whose_letter_could_not_be_written_is_not_run_again(
    service: Service,
) -> None:
    await _give_back(service, times=1)
    await _note(service, deliveries=1, failures=1, status="failed", last_error="ValueError: no")
    async with service.working(recording(), max_deliver=1):
        await eventually(service.is_empty)
    [dead] = await service.dead_letters()
    assert letter(dead)["error_message"] == "ValueError: no"
    assert await service.effects() == []


async def test_a_replayed_event_has_all_its_tries_again(service: Service) -> None:
    consumers = Consumers()
    runs = 0

    @consumers.on("order.changed")
    async def handle(event: Event[Change]) -> None:
        nonlocal runs
        runs += 1
        raise ValueError("never")

    await service.send_many(1, resources=1)
    async with service.working(consumers, max_deliver=2, backoff=(0.05,)):
        await eventually(service.is_empty)
        assert runs == 2
        [dead] = await service.dead_letters()
        await service.send(dead.data or b"")
        await eventually(lambda: runs == 4)
        await eventually(service.is_empty)
    assert await _counts(service) == ("dead_lettered", 2, 0)


async def test_two_messages_with_one_id_that_both_fail_come_to_an_end(service: Service) -> None:
    consumers = Consumers()
    runs = 0

    @consumers.on("order.changed")
    async def handle(event: Event[Change]) -> None:
        nonlocal runs
        runs += 1
        raise ValueError("never")

    await service.send_many(1, resources=1)
    await service.send_many(1, resources=1)
    async with service.working(consumers, max_deliver=3, backoff=(0.05,)):
        await eventually(service.is_empty)
    assert len(await service.dead_letters()) == 2
    assert runs <= 2 * 3
