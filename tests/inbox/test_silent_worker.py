"""A worker that froze amid its transactions: what it wrote and has not committed stalls nobody."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from jetstream_bridge import Consumers
from jetstream_bridge.inbox.delivery import Delivery
from jetstream_bridge.inbox.reading import EventReader
from jetstream_bridge.inbox.store import Inbox
from tests.bridge.consuming import DURABLE, STREAM, Service, recording
from tests.bridge.support import envelope, scalar
from tests.bridge.worker_process import WorkerProcess, make_table, seen
from tests.brokers import on_nats_server
from tests.waiting import eventually

HELD = 8  # events in the hand of the frozen worker
ACK_WAIT = 2.0  # seconds
LONGEST_GAP = 4.0  # seconds, on a machine that is busy with something else


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@on_nats_server
async def test_the_other_worker_goes_on_beside_the_locks_of_a_frozen_one(
    service: Service, tmp_path: Path
) -> None:
    await make_table(service.engine)
    url = service.engine.url.render_as_string(hide_password=False)
    frozen, healthy = (
        WorkerProcess(
            name,
            url,
            service.broker.url,
            tmp_path,
            ack_wait=ACK_WAIT,
            worker_concurrency=4,
            worker_batch_size=1,
        )
        for name in ("frozen", "healthy")
    )
    with frozen, healthy:
        frozen.start()
        for n in range(HELD):
            await service.send(envelope(f"f{n}", resource=f"f{n}", n=n, seconds=0.5))
        await eventually(lambda: _open_transactions(service))
        frozen.freeze()
        done = {n for _, n, _ in await seen(service.engine)}
        healthy.start()
        longest = await _longest_gap(service, seconds=4 * ACK_WAIT)
        frozen.thaw()

        async def all_done() -> bool:
            return {n for _, n, _ in await seen(service.engine)} >= set(range(HELD))

        await eventually(all_done, limit=60)
        await eventually(service.is_empty, limit=20)
    found = [n for _, n, _ in await seen(service.engine)]
    assert len(done) < HELD, "the worker froze amid its work"
    assert len(found) == len(set(found)), "each once"
    assert longest < LONGEST_GAP
    assert await service.dead_letters() == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@on_nats_server
async def test_events_in_one_batch_with_many_that_are_locked_do_not_wait_for_each_lock(
    service: Service,
) -> None:
    number = 20
    async with service.working(Consumers(), ack_wait=ACK_WAIT):
        pass
    await service.send_many(number, resources=number)
    js = service.client.jetstream()
    pulled = await js.pull_subscribe_bind(DURABLE, STREAM)
    taken: list[Msg] = []
    while len(taken) < number:
        taken += await pulled.fetch(number - len(taken), timeout=10)
    await pulled.unsubscribe()
    reader = EventReader(Consumers(), None)
    async with service.sessions() as silent:  # as another worker's transaction, which froze
        held = [Delivery(message, reader).received for message in taken]
        await Inbox(DURABLE).claim(silent, held)
        for message in taken:
            await message.nak()
        for n in range(number, 2 * number):
            await service.send(envelope(f"e{n}", resource=f"other{n}", n=n))
        began = time.monotonic()
        async with service.working(recording(), worker_concurrency=2, backoff=(0.5, 1.0, 2.0)):

            async def others() -> bool:
                return set(await service.effects()) == set(range(number, 2 * number))

            await eventually(others, limit=60)
            assert time.monotonic() - began < number, "less than a second for each lock"
            await silent.rollback()
            await eventually(service.is_empty, limit=30)
    assert sorted(await service.effects()) == list(range(2 * number))
    assert await service.dead_letters() == []


async def _longest_gap(service: Service, *, seconds: float) -> float:
    """Send one event after the other, and return the longest time that one took."""
    longest, number = 0.0, 1000
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        number += 1
        began = time.monotonic()
        await service.send(envelope(f"h{number}", resource=f"h{number}", n=number))

        async def handled(number: int = number) -> bool:
            return number in {n for _, n, _ in await seen(service.engine)}

        await eventually(handled, limit=60)
        longest = max(longest, time.monotonic() - began)
        await asyncio.sleep(0)
    return longest


async def _open_transactions(service: Service) -> bool:
    number = await scalar(
        service.engine,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND state = 'idle in transaction' AND query LIKE 'INSERT INTO seen%'",
    )
    return bool(number >= 4)
