"""What the server refuses to a running service, and a server that falls silent; on the mock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from jetstream_bridge import Bridge, Consumers
from jetstream_bridge.core.errors import (
    NotConnectedError,
    PermissionDeniedError,
    RequestTimeoutError,
)
from tests.bridge.support import Sessions, config, database
from tests.brokers import MockBroker, broker_of
from tests.waiting import eventually

STREAM = "test-jetstream-bridge-stream"
DURABLE = "test-orders-workers"
RIGHTS = [
    "test.orders.sync.billing",
    f"$JS.API.STREAM.INFO.{STREAM}",
    f"$JS.API.CONSUMER.INFO.{STREAM}.{DURABLE}",
    f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{DURABLE}",
    f"$JS.ACK.{STREAM}.{DURABLE}.>",
]


@pytest.fixture
async def nats() -> AsyncIterator[MockBroker]:
    async with broker_of("mock") as broker:
        assert isinstance(broker, MockBroker)
        yield broker


@pytest.fixture
async def sessions(sqlite_url: str) -> AsyncIterator[Sessions]:
    async with database(sqlite_url) as (_, sessions):
        yield sessions


def orders(nats: MockBroker, sessions: Sessions, **changes: Any) -> Bridge:
    return Bridge(
        config(nats.url, **changes),
        sessions,
        relay=True,
        consumers=Consumers(),
        make_client=nats.make_client,
    )


def complaints(bridge: Bridge) -> str:
    return "; ".join(str(check.detail) for check in bridge.checks().values() if not check.ok)


async def provisioned(nats: MockBroker, sessions: Sessions) -> None:
    async with orders(nats, sessions) as bridge:
        await eventually(lambda: complaints(bridge) == "", limit=60)


@pytest.mark.parametrize("right", RIGHTS)
async def test_readiness_names_a_refused_right_and_forgets_it_when_it_is_granted(
    right: str, nats: MockBroker, sessions: Sessions
) -> None:
    await provisioned(nats, sessions)
    nats.server.faults.deny_publish(right)
    async with orders(nats, sessions, auto_provision=False) as bridge:
        async with sessions() as session:
            await bridge.publisher(session).publish("order.placed", {"id": 1})
            await session.commit()
        js = (await nats.connect()).jetstream()
        await js.publish("test.billing.sync.orders", b'{"event_type":"x","payload":{}}')
        told = f"NATS does not permit this user to publish on {right}; grant it"
        await eventually(lambda: told in complaints(bridge), limit=60)
        nats.server.faults.clear()
        await nats.passes(130)
        await eventually(lambda: complaints(bridge) == "", limit=60)
        assert bridge.failures() == []


async def test_a_refused_inbox_is_told_and_asked_for_again_later(
    nats: MockBroker, sessions: Sessions
) -> None:
    await provisioned(nats, sessions)
    nats.server.faults.deny_subscribe("_INBOX_orders.>")
    async with orders(nats, sessions, auto_provision=False) as bridge:
        await eventually(lambda: "subscribe to _INBOX_orders.>" in complaints(bridge), limit=60)
        with pytest.raises(PermissionDeniedError, match=r"subscribe to _INBOX_orders\.>"):
            await bridge.connection.request("$JS.API.INFO", timeout=2)
        nats.server.faults.clear()
        await eventually(lambda: complaints(bridge) == "", limit=120)


async def test_a_ping_says_how_long_the_server_takes(nats: MockBroker, sessions: Sessions) -> None:
    bridge = orders(nats, sessions)
    with pytest.raises(NotConnectedError):
        await bridge.connection.probe()
    async with bridge:
        await bridge.connection.wait_connected(20)
        client = bridge.connection.client
        assert await bridge.connection.probe() >= 0
        nats.server.faults.slow("3s")
        with pytest.raises(RequestTimeoutError, match="no answer to a ping within 2 s"):
            await bridge.connection.probe(2)
        nats.server.faults.clear()
        await nats.passes(5)  # the late answer comes, and harms nothing
        assert await bridge.connection.probe() >= 0
        assert bridge.connection.client is client


async def test_a_server_that_falls_silent_gets_a_new_client(
    nats: MockBroker, sessions: Sessions
) -> None:
    async with orders(nats, sessions) as bridge:
        client = await bridge.connection.wait_connected(20)
        nats.server.faults.slow("1h")
        await eventually(
            lambda: "no answer to 3 probes" in (bridge.connection.error or ""), limit=60
        )
        nats.server.faults.clear()
        assert await bridge.connection.wait_connected(60) is not client
