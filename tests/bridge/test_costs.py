"""What an event costs: statements, messages of NATS, and bytes of PostgreSQL's log.

These fail when somebody adds a query or a request to the way of each event.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge import Bridge
from tests.bridge.consuming import Service, recording
from tests.bridge.consuming import service_on as service_on_nats
from tests.bridge.support import config, database, enqueue, scalar, statements
from tests.brokers import Broker, broker_of
from tests.outbox.test_relay import SUBJECT, all_sent, many, relaying
from tests.waiting import eventually

EVENTS = 3000
RELAYED = 6000  # so many that what a relay asks when it begins does not count
BATCH = 100


@pytest.fixture
async def real_broker() -> AsyncIterator[Broker]:
    async with broker_of("real") as broker:
        yield broker


def messages(bridge: Bridge) -> int:
    """What a bridge has sent to NATS: messages, acknowledgements and requests."""
    client = bridge.connection.client
    assert client is not None
    return int(client.stats["out_msgs"])


async def log_position(engine: AsyncEngine) -> int:
    """Bytes that PostgreSQL has written to its log."""
    return int(await scalar(engine, "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))


@pytest.mark.real
async def test_what_the_relay_costs_for_each_event(postgres_url: str, real_broker: Broker) -> None:
    async with database(postgres_url) as (engine, sessions):
        settings = config(real_broker.url, relay_batch_size=BATCH)
        await enqueue(engine, many(RELAYED, resources=RELAYED), subject=SUBJECT)
        before = await log_position(engine)
        seen = statements(engine)
        async with relaying(settings, sessions, real_broker) as bridge:
            await eventually(all_sent(engine, RELAYED), limit=30)
            asked = [one for one in seen if "GROUP BY status" not in one]
            sent, written = messages(bridge), await log_position(engine) - before
        assert len(asked) / RELAYED <= 0.05
        assert sent / RELAYED <= 1.02, "one message for each event, and some requests at the start"
        assert written / RELAYED <= 900


@pytest.mark.real
async def test_what_writing_an_event_costs(postgres_url: str) -> None:
    async with database(postgres_url) as (engine, _):
        events = many(EVENTS, resources=EVENTS)
        before = await log_position(engine)
        await enqueue(engine, events, subject=SUBJECT)
        written = await log_position(engine) - before
        assert written / EVENTS <= 1300


@pytest.mark.real
async def test_what_the_worker_costs_for_each_event(postgres_url: str, real_broker: Broker) -> None:
    async with service_on_nats(postgres_url, real_broker) as service:
        await service.send_many(EVENTS, resources=EVENTS)
        before = await log_position(service.engine)
        seen = statements(service.engine)
        async with service.working(recording(), worker_batch_size=BATCH) as bridge:
            await eventually(_handled(service), limit=60)
            own = [one for one in seen if "INTO effect" in one]
            asked = [one for one in seen if "effect" not in one]
            sent, written = messages(bridge), await log_position(service.engine) - before
        assert len(own) == EVENTS
        assert len(asked) / EVENTS <= 0.1
        assert sent / EVENTS <= 1.1, "one acknowledgement for each event, and a pull for a batch"
        assert written / EVENTS <= 1500


def _handled(service: Service) -> Callable[[], Awaitable[bool]]:
    async def handled() -> bool:
        return int(await scalar(service.engine, "SELECT count(*) FROM effect")) == EVENTS

    return handled
