"""What a claim sends: turns bound it, a hot resource delays nobody, and no order where none is."""

from __future__ import annotations

import json

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge.nats.outgoing import Outcome, Outgoing
from jetstream_bridge.outbox.chains import LEAST_READY, Chain, chains_of, keep_pace
from jetstream_bridge.outbox.rows import OutboxRow
from jetstream_bridge.outbox.settlement import RELEASE_PORTION, Settlement
from jetstream_bridge.outbox.tables import LANES
from tests.bridge.support import config, database, enqueue, envelope, rows, scalar
from tests.brokers import Broker, MockBroker, broker_of
from tests.outbox.test_relay import (
    SUBJECT,
    all_sent,
    assert_in_order,
    create_stream,
    ids,
    many,
    relaying,
    settled,
)
from tests.slow_way import far_away
from tests.waiting import eventually

STREAM = "test-jetstream-bridge-stream"
HOT = 200  # rows of one resource; each has to wait for the answer to the one before


def row(number: int, *, resource: str = "r", first_held: int | None = None) -> OutboxRow:
    """A row as a claim reads it."""
    return OutboxRow(
        *(number, f"e{number}", SUBJECT, "{}", "{}"),
        attempts=0,
        resource=resource,
        held=False,
        lane=0,
        part=1,
        enqueued=None,
        first_held=first_held,
    )


def test_who_is_set_aside_while_its_head_goes_comes_back_with_it() -> None:
    """It came while the head waited, so nothing was held yet when the claim read the head."""
    settlement = Settlement()
    [chain] = chains_of([row(1), row(2, first_held=1)], settlement, "nats-msg-id")
    keep_pace(chain, 1, settlement)
    assert settlement.held == [2]
    assert "r" in settlement.released


def hot(number: int, *, stored: int, first_held: int | None = None) -> Chain:
    chain = Chain("r", followed=first_held is not None)
    for n in range(number):
        message = Outgoing(n, SUBJECT, b"{}", {})
        message.outcome = Outcome.STORED if n < stored else None
        chain.messages.append(message)
        chain.rows.append(row(n, first_held=first_held))
    return chain


@pytest.mark.parametrize(
    ("number", "stored", "held_back", "parked", "released"),
    [
        (10, 10, False, 0, None),  # all went out, and nothing waits
        (10, 3, False, 0, None),  # what is left is soon sent
        (100, 3, False, 97 - LEAST_READY, None),
        (1000, 50, False, 850, None),
        (1000, 50, True, 850, None),
        (24, 12, True, 0, 12),  # as many come back as went out, and as many again are ready
        (1, 1, True, 0, LEAST_READY),
        (900, 900, True, 0, RELEASE_PORTION),
    ],
)
def test_a_resource_has_as_many_ready_rows_as_the_next_claims_can_send(
    number: int, stored: int, held_back: bool, parked: int, released: int | None
) -> None:
    settlement = Settlement()
    chain = hot(number, stored=stored, first_held=5000 if held_back else None)
    assert chain.stored == stored
    keep_pace(chain, chain.stored, settlement)
    assert settlement.held == list(range(number - parked, number))
    assert settlement.released == ({} if released is None else {"r": released})


def test_rows_without_a_resource_are_chains_of_their_own() -> None:
    given = [row(n, resource="" if n % 2 else "r") for n in range(6)]
    chains = chains_of(given, Settlement(), "Nats-Msg-Id")
    assert [[r.id for r in chain.rows] for chain in chains] == [[0, 2, 4], [1], [3], [5]]


def without_resource(*event_ids: str, note: str = "") -> list[dict[str, str]]:
    return [{"event_id": i, "payload": envelope(i, resource="", note=note)} for i in event_ids]


async def place(engine: AsyncEngine) -> list[tuple[str, int]]:
    found = await rows(engine, "SELECT resource, lane FROM jetstream_outbox_events ORDER BY id")
    return [(row[0], row[1]) for row in found]


async def test_rows_without_a_resource_id_are_spread_over_all_lanes(postgres_url: str) -> None:
    async with database(postgres_url) as (engine, _):
        await enqueue(engine, without_resource(*map(str, range(LANES))), subject=SUBJECT)
        missing = json.dumps({"resource_type": "order", "payload": {}})
        null = json.dumps({"resource_type": "order", "resource_id": None, "payload": {}})
        await enqueue(
            engine,
            [{"event_id": "missing", "payload": missing}, {"event_id": "null", "payload": null}],
            subject=SUBJECT,
        )
        placed = await place(engine)
        assert {resource for resource, _ in placed} == {""}
        assert {lane for _, lane in placed} == set(range(LANES))


async def test_what_a_row_without_a_resource_meets_is_its_own_affair(
    database_url: str, broker: Broker
) -> None:
    await create_stream(broker, max_msg_size=1000)
    async with database(database_url) as (engine, sessions):
        await enqueue(
            engine,
            [
                *without_resource("large", "huge", note="x" * 2000),
                *without_resource(*(f"e{n}" for n in range(40))),
            ],
            subject=SUBJECT,
        )
        async with relaying(config(broker.url, backoff=(3600.0,)), sessions, broker):

            async def the_others_are_sent() -> bool:
                sent = "SELECT count(*) FROM jetstream_outbox_events WHERE status = 'sent'"
                return bool(await scalar(engine, sent) == 40)

            await eventually(the_others_are_sent)
            await enqueue(engine, without_resource("late"), subject=SUBJECT)
            await eventually(settled(engine, pending=2, sent=41))
        waiting = await rows(engine, "SELECT event_id FROM jetstream_outbox_events WHERE held")
        assert sorted(row[0] for row in waiting) == ["huge", "large"]


async def test_events_without_a_resource_id_do_not_wait_for_each_other(sqlite_url: str) -> None:
    async with (
        broker_of("mock") as broker,
        database(sqlite_url) as (engine, sessions),
    ):
        assert isinstance(broker, MockBroker)
        await enqueue(engine, without_resource(*map(str, range(HOT))), subject=SUBJECT)
        broker.server.faults.slow("20ms")
        async with relaying(config(broker.url), sessions, broker) as bridge:
            await eventually(lambda: bridge.topology.problem is None)
            began = broker.clock.time
            await eventually(all_sent(engine, HOT))
            assert broker.clock.time - began < HOT * 0.02 / 4, "not one after the other"


async def test_a_hot_resource_does_not_delay_another_lane(
    postgres_url: str, broker: Broker
) -> None:
    await assert_not_delayed(postgres_url, broker, same_lane=False, batch_size=1000)


async def test_a_hot_resource_does_not_delay_its_own_lane(
    database_url: str, broker: Broker
) -> None:
    """A claim does not reach over the hot one's rows, which therefore leave the lane's sight."""
    await assert_not_delayed(database_url, broker, same_lane=True, batch_size=HOT // 4)


async def assert_not_delayed(url: str, broker: Broker, *, same_lane: bool, batch_size: int) -> None:
    """Counted and not timed: how many rows of the hot one went out while the other waited."""
    async with database(url) as (engine, sessions), far_away(broker, 0.02) as nats:
        await enqueue(engine, many(HOT, resources=1), subject=SUBJECT)
        other = await resource_in(engine, same_lane=same_lane)
        settings = config(nats, relay_batch_size=batch_size)
        async with relaying(settings, sessions, broker) as bridge:
            await eventually(lambda: bridge.topology.problem is None)
            await eventually(lambda: last_sequence(broker))
            before = await last_sequence(broker)
            event = {"event_id": "other", "payload": envelope("other", resource=other, n=0)}
            await enqueue(engine, [event], subject=SUBJECT)
            bridge.wake_relay()
            await eventually(all_sent(engine, HOT + 1), limit=60)
        assert (await ids(broker)).index("other") - before < HOT / 2
        await assert_in_order(broker, HOT + 1)


async def last_sequence(broker: Broker) -> int:
    client = await broker.connect()
    try:
        return (await client.jetstream().stream_info(STREAM)).state.last_seq
    finally:
        await client.close()


async def resource_in(engine: AsyncEngine, *, same_lane: bool) -> str:
    """The id of a resource whose events are in the lane of resource 0, or in another one."""
    if engine.dialect.name == "sqlite":
        return "1"
    found = await rows(
        engine,
        "SELECT CAST(n AS text), (hashtext('order:' || n) & 15) = (hashtext('order:0') & 15) "
        "FROM generate_series(1, 200) n",
    )
    return next(str(name) for name, shares in found if shares is same_lane)
