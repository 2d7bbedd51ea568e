"""A stream that was deleted and made anew counts from 1 again: its events are others."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats.errors
import nats.js.errors
import pytest
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import Consumers, DeadLetter, Event, Unrecoverable
from tests.bridge.consuming import (
    DURABLE,
    STREAM,
    Change,
    Service,
    insert,
    recording,
)
from tests.bridge.support import enqueue, envelope, rows
from tests.brokers import RealBroker, on_nats_server
from tests.waiting import eventually

NUMBER = 30
FIRST, SECOND = range(NUMBER), range(NUMBER, 2 * NUMBER)


class Gates:
    """A handler that waits: for one gate with events below `NUMBER`, for another with the rest."""

    def __init__(self) -> None:
        self.old = asyncio.Event()
        self.new = asyncio.Event()
        self.entered = asyncio.Event()
        self.failures: list[int] = []  # numbers whose handler fails once

    def consumers(self) -> Consumers:
        consumers = Consumers()

        @consumers.on("order.changed")
        async def record(event: Event[Change], session: AsyncSession) -> None:
            n = event.payload.n
            self.entered.set()
            await (self.old if n < NUMBER else self.new).wait()
            if n in self.failures:
                self.failures.remove(n)
                raise ValueError(f"not yet: {n}")
            await insert(session, n)

        return consumers


async def delivered(service: Service, number: int) -> bool:
    """The present consumer has handed out so many."""
    try:
        info = await service.info()
    except nats.errors.Error:  # also while the server is away
        return False
    return bool(info.delivered and info.delivered.consumer_seq == number)


@asynccontextmanager
async def holding(service: Service, gates: Gates) -> AsyncIterator[None]:
    """A worker holds `NUMBER` events, and then as many of a stream that was made anew."""
    await service.send_many(NUMBER, resources=NUMBER)
    async with service.working(gates.consumers(), worker_concurrency=16):
        await eventually(lambda: delivered(service, NUMBER))
        await gates.entered.wait()
        await service.client.jetstream().delete_stream(STREAM)
        await eventually(lambda: delivered(service, 0), limit=20, what="the durable is there again")
        await service.send_many(NUMBER, resources=NUMBER, start=NUMBER)
        await eventually(lambda: delivered(service, NUMBER), limit=20)
        yield


async def has_effects(service: Service, numbers: list[int]) -> bool:
    return sorted(await service.effects()) == numbers


async def test_new_events_with_the_numbers_of_those_in_hand_are_handled(service: Service) -> None:
    gates = Gates()
    gates.new.set()
    async with holding(service, gates):
        gates.old.set()
        await eventually(lambda: has_effects(service, [*FIRST, *SECOND]), limit=20)
        await eventually(service.is_empty)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_the_end_of_an_old_event_ends_no_new_one(service: Service) -> None:
    gates = Gates()
    async with holding(service, gates):
        gates.old.set()
        await eventually(lambda: has_effects(service, list(FIRST)), limit=20)
        for _ in range(3):  # an answer to the old ones would have arrived before these
            assert (await service.info()).num_ack_pending == NUMBER
        gates.new.set()
        await eventually(service.is_empty, limit=20)
    assert sorted(await service.effects()) == [*FIRST, *SECOND]


async def test_an_event_whose_stream_is_gone_is_tried_again(service: Service) -> None:
    gates = Gates()
    gates.failures = [3, 7]
    gates.new.set()
    async with holding(service, gates):
        gates.old.set()
        await eventually(lambda: has_effects(service, [*FIRST, *SECOND]), limit=20)
        await eventually(service.is_empty)
    assert gates.failures == []
    assert await service.dead_letters() == []


@on_nats_server
async def test_events_after_the_store_was_lost_are_handled(service: Service) -> None:
    assert isinstance(service.broker, RealBroker)
    gates = Gates()
    gates.new.set()
    await service.send_many(NUMBER, resources=NUMBER)
    async with service.working(gates.consumers(), worker_concurrency=16):
        await eventually(lambda: delivered(service, NUMBER))
        service.broker.kill()
        shutil.rmtree(service.broker.server.store)
        service.broker.start()
        await eventually(lambda: delivered(service, 0), limit=20, what="the durable is there again")
        await service.send_many(NUMBER, resources=NUMBER, start=NUMBER)
        await eventually(lambda: delivered(service, NUMBER), limit=20)
        gates.old.set()
        await eventually(lambda: has_effects(service, [*FIRST, *SECOND]), limit=20)


async def test_events_without_an_id_are_no_duplicates_of_those_before(service: Service) -> None:
    async with service.working(recording()):
        for start in (0, 5):
            for n in range(start, start + 5):
                await service.send(f'{{"event_type":"order.changed","payload":{{"n":{n}}}}}')
            await eventually(service.is_empty)
            await service.client.jetstream().delete_stream(STREAM)
            await eventually(lambda: delivered(service, 0), limit=20)
    assert sorted(await service.effects()) == list(range(10))


async def test_a_letter_with_the_number_of_an_earlier_one_is_handled(service: Service) -> None:
    consumers = Consumers()
    seen: list[str] = []

    @consumers.on("order.changed")
    async def refuse(event: Event[Change]) -> None:
        raise Unrecoverable("no")

    @consumers.on_dead_letter()
    async def record(letter: DeadLetter) -> None:
        seen.append(letter.event_id)

    async with service.working(consumers):
        for event_id in ("e1", "e2"):
            await service.send(envelope(event_id, n=1))
            await eventually(lambda: seen[-1:] == [event_id])  # noqa: B023 - awaited here
            await service.client.jetstream().delete_stream(STREAM)
            await eventually(lambda: delivered(service, 0), limit=20)
    assert seen == ["e1", "e2"]


async def test_a_row_of_an_older_version_still_drops_its_event_and_no_other(
    service: Service,
) -> None:
    """Its key had the sequence only. A row that is older than the message is another's."""
    for n in (1, 2):
        await service.send(f'{{"event_type":"order.changed","payload":{{"n":{n}}}}}')
    message = await service.client.jetstream().get_msg(STREAM, seq=1)
    assert message.time is not None
    async with service.sessions() as session:
        for seq, processed_at in ((1, "2100-01-01"), (2, "2001-01-01")):
            await (await session.connection()).exec_driver_sql(
                "INSERT INTO jetstream_inbox_events (consumer, event_id, subject, stream,"
                f" stream_seq, deliveries, status, processed_at) VALUES ('{DURABLE}', 'seq:{seq}',"
                f" 's', '{STREAM}', {seq}, 1, 'processed', '{processed_at} 00:00:00.000000+00:00')"
            )
        await session.commit()
    async with service.working(recording()):
        await eventually(service.is_empty)
    assert await service.effects() == [2]


async def test_what_was_lost_with_the_store_is_sent_again_from_the_outbox(service: Service) -> None:
    """As docs/operations.md says, inside the duplicate window of the stream too."""
    subject = "test.billing.sync.orders"
    events = [
        {"event_id": f"e{n}", "payload": envelope(f"e{n}", resource=str(n), n=n)} for n in range(3)
    ]
    js = service.client.jetstream()

    async def stored(number: int) -> bool:
        try:
            state = (await js.stream_info(STREAM)).state
        except nats.js.errors.NotFoundError:
            return False
        found = await rows(service.engine, "SELECT status FROM jetstream_outbox_events")
        return state.messages == number and {row[0] for row in found} == {"sent"}

    bridge = service.relaying()
    async with bridge:
        await enqueue(service.engine, events, subject=subject)
        await eventually(lambda: stored(3))
        await js.delete_stream(STREAM)
        await bridge.topology.ensure()
        assert await stored(0)
        async with service.engine.begin() as connection:
            await connection.exec_driver_sql(RESEND)
        bridge.wake_relay()
        await eventually(lambda: stored(3), limit=20)


RESEND = """
    UPDATE jetstream_outbox_events SET status = 'pending', sent_at = NULL, attempts = 0
     WHERE status = 'sent'"""
