"""The supervised connection's states, on the mock and on a real server alike.

What only a real server can do (TLS, accounts, a frozen process) is in test_connection.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from jetstream_bridge.core.config import ConnectionOptions
from jetstream_bridge.core.errors import (
    NatsConnectionError,
    NoRespondersError,
    NotConnectedError,
    PermissionDeniedError,
    RequestTimeoutError,
)
from jetstream_bridge.core.limits import Timing
from jetstream_bridge.nats.connection import Connection, ConnectionEvent
from jetstream_bridge.testing import MockServer, VirtualClock
from jetstream_bridge.testing.barrier import barrier
from tests.brokers import Broker
from tests.waiting import eventually

CONNECTED = ConnectionEvent.CONNECTED
DISCONNECTED = ConnectionEvent.DISCONNECTED
REPLACED = ConnectionEvent.REPLACED
CLOSED = ConnectionEvent.CLOSED

INFO = "$JS.API.INFO"
QUICK = Timing(probe_interval=0.1, probe_timeout=0.5, silent_probes=3, denied_inbox_retry=0.5)


class Watched:
    """A connection, and the events that it announced."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.events: list[ConnectionEvent] = []
        connection.add_listener(self.events.append)

    @property
    def client(self) -> Client:
        client = self.connection.client
        assert client is not None
        return client

    @property
    def error(self) -> str:
        return self.connection.error or ""


@contextlib.asynccontextmanager
async def connected(
    broker: Broker | MockServer, *, timing: Timing = QUICK, wait: bool = True
) -> AsyncIterator[Watched]:
    make: Any = broker.client if isinstance(broker, MockServer) else broker.make_client
    connection = Connection(
        ConnectionOptions(urls=(broker.url,)), name="orders", timing=timing, make_client=make
    )
    watched = Watched(connection)
    await connection.start()
    try:
        if wait:
            await connection.wait_connected(10)
        yield watched
    finally:
        await connection.close(timeout=3)


# --- on both


async def test_a_server_that_comes_later_is_connected_to(broker: Broker) -> None:
    broker.kill()
    async with connected(broker, wait=False) as watched:
        connection = watched.connection
        with pytest.raises(NotConnectedError, match="not connected to NATS at nats://"):
            await connection.wait_connected(0.3)
        assert connection.state == "connecting"
        with pytest.raises(NotConnectedError):
            await connection.request(INFO, timeout=1)
        broker.start()
        await connection.wait_connected(10)
        assert (connection.state, connection.generation, connection.error) == ("connected", 1, None)
        assert connection.connected_at is not None
        assert watched.events == [CONNECTED]
    assert connection.state == "closed"
    assert watched.events == [CONNECTED, CLOSED]
    with pytest.raises(NotConnectedError, match="is closed"):
        await connection.wait_connected(1)


async def test_a_client_that_cannot_send_what_it_has_is_given_up_with_all_its_tasks(
    broker: Broker,
) -> None:
    async def hear(_: Msg) -> None: ...

    async with connected(broker) as watched:
        client = watched.connection.client
        assert client is not None
        subscription = await client.subscribe("heard", cb=hear)
        broker.kill()
        await eventually(lambda: not watched.connection.connected)
    task = subscription._wait_for_msgs_task
    assert task is not None
    await eventually(task.done)


async def test_a_restart_keeps_the_client_and_is_announced(broker: Broker) -> None:
    async with connected(broker) as watched:
        client = watched.client
        broker.terminate()
        await eventually(lambda: not watched.connection.connected)
        assert watched.connection.state == "reconnecting"
        broker.start()
        assert await watched.connection.wait_connected(10) is client
        await eventually(lambda: watched.connection.generation == 2)
        assert watched.events == [CONNECTED, DISCONNECTED, CONNECTED]
        assert await watched.connection.probe() < 5


async def test_a_long_outage_ends_with_a_new_client(broker: Broker) -> None:
    timing = Timing(probe_interval=0.1, reconnect_limit=0.5)
    async with connected(broker, timing=timing) as watched:
        client = watched.client
        broker.kill()
        await eventually(lambda: "replaced" in watched.error)
        broker.start()
        assert await watched.connection.wait_connected(10) is not client
        assert watched.events == [CONNECTED, DISCONNECTED, REPLACED]


async def test_a_payload_violation_ends_with_a_new_client(broker: Broker) -> None:
    async with connected(broker) as watched:
        client = watched.client
        # nats-py counts the body only, the server the headers too.
        await client.publish("x", b"x" * (client.max_payload - 10), headers={"a": "b" * 100})
        await eventually(lambda: REPLACED in watched.events)
        assert watched.connection.client is not client
        assert await watched.connection.probe() < 5


async def test_a_read_loop_that_died_ends_with_a_new_client(broker: Broker) -> None:
    async with connected(broker) as watched:
        client = watched.client
        assert client._reading_task is not None
        client._reading_task.cancel()
        await eventually(lambda: REPLACED in watched.events)
        assert client.is_closed
        assert await watched.connection.probe() < 5


async def test_an_idle_connection_keeps_its_client_on_either(broker: Broker) -> None:
    async with connected(broker) as watched:
        client = watched.client
        await eventually(lambda: client._pongs_received >= 5)
        assert watched.client is client
        assert watched.events == [CONNECTED]


async def test_a_listener_that_raises_harms_nobody(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    def bad(event: ConnectionEvent) -> None:
        raise RuntimeError(f"cannot stand {event.value}")

    async with connected(broker) as watched:
        connection = watched.connection
        connection.remove_listener(watched.events.append)
        connection.add_listener(bad)
        connection.add_listener(watched.events.append)
        broker.kill()
        broker.start()
        await eventually(lambda: len(watched.events) > 1 and watched.events[-1] is CONNECTED)
        assert "cannot stand disconnected" in caplog.text
        connection.remove_listener(bad)
        connection.remove_listener(bad)  # a second time is no error


async def test_a_request_that_nobody_answers_is_told_at_once(broker: Broker) -> None:
    async with connected(broker) as watched:
        with pytest.raises(NoRespondersError, match="nobody answers on nobody"):
            await watched.connection.request("nobody", timeout=10)


async def test_a_request_without_an_answer_ends_in_its_time(broker: Broker) -> None:
    async with connected(broker) as watched:
        listening = await broker.connect()
        await listening.subscribe("slow")
        await barrier(listening)
        with pytest.raises(RequestTimeoutError, match=r"no answer on slow within 0\.2 s"):
            await watched.connection.request("slow", timeout=0.2)
        await listening.close()


async def test_a_request_on_no_subject_is_the_connection_s_error(broker: Broker) -> None:
    async with connected(broker) as watched:
        with pytest.raises(NatsConnectionError, match="two words"):
            await watched.connection.request("two words", timeout=1)


async def test_a_connection_is_started_once(broker: Broker) -> None:
    async with connected(broker) as watched:
        with pytest.raises(RuntimeError, match="was started already"):
            await watched.connection.start()
        assert watched.connection.failures() == []
    await watched.connection.close()  # a second time is no error
    with pytest.raises(RuntimeError, match="make a new one"):
        await watched.connection.start()


async def test_a_supervisor_that_died_is_named(broker: Broker) -> None:
    async with connected(broker) as watched:
        supervisor = next(
            task for task in asyncio.all_tasks() if task.get_name() == "connection supervisor"
        )
        supervisor.cancel()
        await eventually(watched.connection.failures)
        assert "was cancelled" in watched.connection.failures()[0]


# --- on the mock, which can be told to misbehave


async def test_a_server_that_says_nothing_any_more_is_given_up(mock_nats: MockServer) -> None:
    async with connected(mock_nats) as watched:
        client = watched.client
        mock_nats.faults.slow("1h")
        with pytest.raises(RequestTimeoutError):
            await watched.connection.request(INFO, timeout=0.2)
        await eventually(lambda: not watched.connection.connected)
        assert "no answer to 3 probes in a row" in watched.error
        mock_nats.faults.clear()
        assert await watched.connection.wait_connected(60) is not client


async def test_a_request_that_is_refused_does_not_wait(
    mock_nats: MockServer, clock: VirtualClock
) -> None:
    async with connected(mock_nats) as watched:
        mock_nats.faults.deny_publish("secret")
        began = clock.elapsed
        with pytest.raises(PermissionDeniedError, match="publish on secret"):
            await watched.connection.request("secret", timeout=30)
        assert clock.elapsed - began < 1
        assert "secret" in (watched.connection.denial("secret") or "")
        assert watched.connection.denial("public") is None


async def test_a_refused_probe_is_a_sign_of_life(
    mock_nats: MockServer, clock: VirtualClock
) -> None:
    mock_nats.faults.deny_publish("_INBOX.>")
    async with connected(mock_nats) as watched:
        client = watched.client
        await clock.advance("10s")  # it asks JetStream instead
        mock_nats.faults.deny_publish(INFO)
        await clock.advance("10s")  # and leaves it to the pings of nats-py
        assert watched.client is client
        assert watched.events == [CONNECTED]
        assert await watched.connection.probe() < 5


async def test_without_jetstream_s_answer_the_refused_probe_finds_a_dead_server(
    mock_nats: MockServer, clock: VirtualClock
) -> None:
    mock_nats.faults.deny_publish("_INBOX.>")
    async with connected(mock_nats) as watched:
        client = watched.client
        await clock.advance("5s")
        mock_nats.faults.slow("1h")
        await eventually(lambda: not watched.connection.connected)
        mock_nats.faults.clear()
        mock_nats.faults.deny_publish("_INBOX.>")
        assert await watched.connection.wait_connected(60) is not client


async def test_a_right_to_the_inbox_is_asked_for_again(
    mock_nats: MockServer, clock: VirtualClock
) -> None:
    async with connected(mock_nats) as watched:
        client = watched.client
        mock_nats.faults.deny_subscribe("_INBOX.>")
        with pytest.raises(PermissionDeniedError, match="no answer reaches it"):
            await watched.connection.request(INFO, timeout=5)
        with pytest.raises(PermissionDeniedError, match="no answer reaches it"):
            await watched.connection.request(INFO, timeout=5)
        assert "no answer reaches it" in watched.error
        mock_nats.faults.permit("_INBOX.>")
        await eventually(lambda: REPLACED in watched.events)
        assert watched.client is not client
        assert await watched.connection.probe() < 5


async def test_a_request_ends_when_its_connection_does(mock_nats: MockServer) -> None:
    async with connected(mock_nats) as watched:
        mock_nats.faults.slow("1h")
        asking = asyncio.create_task(watched.connection.request(INFO, timeout=30))
        await eventually(lambda: watched.client.stats["out_msgs"] > 0)
        mock_nats.stop()
        with pytest.raises(RequestTimeoutError, match="connection was lost"):
            await asyncio.wait_for(asking, 5)
        mock_nats.faults.clear()
        mock_nats.start()


async def test_a_client_that_is_given_up_leaves_no_task_that_a_reconnection_began(
    broker: Broker,
) -> None:
    """nats-py's `close` ends the tasks that it knows first, and lets a reconnection begin more."""
    client = broker.make_client(tls_demanded=False)
    await client.connect(broker.url)
    late = [asyncio.create_task(asyncio.sleep(600)) for _ in range(2)]
    await client.close()
    client._ping_interval_task, client._flusher_task = late

    client.abort()
    await asyncio.wait(late, timeout=5)

    assert all(task.cancelled() for task in late)
