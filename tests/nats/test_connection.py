"""The supervised connection, against real servers that go away, refuse, freeze and come back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

from jetstream_bridge.core.config import ConnectionOptions
from jetstream_bridge.core.errors import (
    NoRespondersError,
    NotConnectedError,
    PermissionDeniedError,
    RequestTimeoutError,
)
from jetstream_bridge.core.limits import Timing
from jetstream_bridge.nats import session as nats_session
from jetstream_bridge.nats.connection import Connection, ConnectionEvent
from jetstream_bridge.testing.server_processes import free_port
from jetstream_bridge.testing.servers import NatsServer
from tests.bridge.connections import (
    CLOSED,
    CONNECTED,
    DISCONNECTED,
    REPLACED,
    Watched,
    connected,
)
from tests.waiting import eventually

LOGIN: dict[str, Any] = {"user": "api", "password": "right"}

QUICK = Timing(probe_interval=0.1, probe_timeout=0.3, silent_probes=3, stable_after=0.5)


def client_of(watched: Watched) -> Client:
    client = watched.connection.client
    assert client is not None
    return client


def _no_longer(connection: Connection, client: Client) -> Callable[[], bool]:
    return lambda: connection.connected and connection.client is not client


@pytest.fixture
def other_server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


pytestmark = pytest.mark.real


# --- coming up, going away, coming back


async def test_starts_while_nats_is_down_and_connects_by_itself_later() -> None:
    server = NatsServer()
    try:
        async with connected(server.url, wait=False) as watched:
            connection = watched.connection
            with pytest.raises(NotConnectedError, match="not connected to NATS at nats://127"):
                await connection.wait_connected(0.3)
            assert connection.state == "connecting"
            with pytest.raises(NotConnectedError):
                await connection.request("$JS.API.INFO", timeout=1)
            server.start()
            await connection.wait_connected(20)
            assert connection.state == "connected"
            assert connection.generation == 1
            assert connection.error is None
            assert connection.connected_at is not None
            assert watched.events == [CONNECTED]
    finally:
        server.close()


@pytest.mark.parametrize("stop", ["terminate", "kill"])
async def test_survives_a_restart_of_the_server_and_is_back_soon(
    nats_server: NatsServer, stop: str
) -> None:
    async with connected(nats_server.url) as watched:
        before = watched.connection.client
        getattr(nats_server, stop)()
        await eventually(lambda: not watched.connection.connected)
        nats_server.start()
        began = time.monotonic()
        await watched.connection.wait_connected(30)
        assert time.monotonic() - began < 6
        assert watched.connection.client is before
        await eventually(lambda: watched.connection.generation == 2)
        assert watched.events == [CONNECTED, DISCONNECTED, CONNECTED]
        assert await watched.connection.probe() < 5


async def test_goes_to_another_server_when_its_own_dies(
    nats_server: NatsServer, other_server: NatsServer
) -> None:
    dead = f"nats://127.0.0.1:{free_port()}"
    async with connected(dead, nats_server.url, other_server.url) as watched:
        client = client_of(watched)
        assert client.connected_url is not None
        used = nats_server if client.connected_url.port == nats_server.port else other_server
        used.kill()
        await eventually(lambda: not watched.connection.connected)
        client = await watched.connection.wait_connected(20)
        assert client.connected_url is not None
        assert client.connected_url.port != used.port


async def test_after_a_long_outage_a_new_client_takes_over(nats_server: NatsServer) -> None:
    timing = Timing(probe_interval=0.1, reconnect_limit=0.5)
    async with connected(nats_server.url, timing=timing) as watched:
        before = watched.connection.client
        nats_server.kill()
        await eventually(lambda: "replaced" in (watched.connection.error or ""))
        nats_server.start()
        assert await watched.connection.wait_connected(20) is not before
        assert watched.events == [CONNECTED, DISCONNECTED, REPLACED]


async def test_a_request_ends_with_its_connection(nats_server: NatsServer) -> None:
    async with connected(nats_server.url) as watched:
        nats_server.pause()
        asking = asyncio.create_task(watched.connection.request("$JS.API.INFO", timeout=30))
        await eventually(lambda: client_of(watched).stats["out_msgs"] > 0)
        nats_server.kill()
        with pytest.raises(RequestTimeoutError, match="connection was lost"):
            await asyncio.wait_for(asking, 5)


# --- clients that are lost for good


async def test_a_payload_violation_ends_the_client_and_a_new_one_takes_over(
    nats_server: NatsServer,
) -> None:
    async with connected(nats_server.url) as watched:
        client = client_of(watched)
        # nats-py counts the body only, the server the headers too.
        await client.publish("x", b"x" * (client.max_payload - 10), headers={"a": "b" * 100})
        await eventually(lambda: REPLACED in watched.events)
        assert watched.events == [CONNECTED, DISCONNECTED, REPLACED]
        assert watched.connection.client is not client
        assert watched.connection.generation == 2
        assert await watched.connection.probe() < 5


async def test_a_client_that_keeps_being_closed_is_replaced_with_growing_pauses(
    nats_server: NatsServer,
) -> None:
    async with connected(nats_server.url, timing=QUICK) as watched:
        began = time.monotonic()
        for _ in range(4):
            client = await watched.connection.wait_connected(20)
            await client.publish("x", b"x" * (client.max_payload - 10), headers={"a": "b" * 100})
            await eventually(_no_longer(watched.connection, client))
        assert time.monotonic() - began > 0.2


async def test_rotated_credentials_end_the_client_and_restored_ones_bring_a_new_one() -> None:
    users = "authorization {{ users: [{{ user: api, password: {password} }}] }}"
    with NatsServer(config=users.format(password="first-secret")) as server:
        async with connected(server.url, user="api", password="first-secret") as watched:
            server.reload(users.format(password="second-secret"))
            await eventually(lambda: "login" in (watched.connection.error or ""))
            assert not watched.connection.connected
            assert watched.connection.failures() == []
            server.reload(users.format(password="first-secret"))
            await watched.connection.wait_connected(20)
            assert watched.events == [CONNECTED, DISCONNECTED, REPLACED]


async def test_a_frozen_server_is_given_up_for_another_one(
    nats_server: NatsServer, other_server: NatsServer
) -> None:
    timing = Timing(probe_interval=0.1, probe_timeout=0.3, connect_timeout=0.5, reconnect_limit=1.0)
    async with connected(nats_server.url, other_server.url, timing=timing) as watched:
        client = client_of(watched)
        assert client.connected_url is not None
        used = nats_server if client.connected_url.port == nats_server.port else other_server
        used.pause()
        with pytest.raises(RequestTimeoutError):
            await watched.connection.request("$JS.API.INFO", timeout=0.2)
        await eventually(lambda: REPLACED in watched.events, limit=15)
        client = await watched.connection.wait_connected(20)
        assert client.connected_url is not None
        assert client.connected_url.port != used.port


async def test_a_client_whose_read_loop_died_is_replaced(nats_server: NatsServer) -> None:
    async with connected(nats_server.url, timing=QUICK) as watched:
        client = client_of(watched)
        assert client._reading_task is not None
        client._reading_task.cancel()
        await eventually(lambda: REPLACED in watched.events)
        assert client.is_closed
        assert await watched.connection.probe() < 5


async def test_a_connection_lost_as_soon_as_it_is_back_leaves_nothing_running(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-py begins its tasks before it has sent its subscriptions, and forgets them then."""
    async with connected(nats_server.url) as watched:
        client = client_of(watched)
        lost = asyncio.Event()
        drain = TcpTransport.drain

        async def breaks_once(transport: TcpTransport) -> None:
            if client.is_connected and not lost.is_set():
                lost.set()
                assert transport._io_writer is not None
                transport._io_writer.transport.abort()
                raise ConnectionResetError("Connection lost")
            await drain(transport)  # type: ignore[no-untyped-call]

        nats_server.kill()
        await eventually(lambda: not watched.connection.connected)
        monkeypatch.setattr(TcpTransport, "drain", breaks_once)
        nats_server.start()
        await eventually(lambda: lost.is_set() and watched.connection.connected)
        assert watched.connection.client is client
        names = Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks())  # type: ignore[union-attr]
        own = ("_read_loop", "_ping_interval", "_flusher")
        assert {one: names[f"Client.{one}"] for one in own} == dict.fromkeys(own, 1)


async def test_an_idle_connection_keeps_its_client(nats_server: NatsServer) -> None:
    async with connected(nats_server.url, timing=QUICK) as watched:
        client = client_of(watched)
        await eventually(lambda: client._pongs_received >= 12)
        assert watched.connection.client is client
        assert watched.events == [CONNECTED]


# --- listeners


async def test_a_raising_listener_harms_neither_the_others_nor_the_reconnect(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    connection = Connection(ConnectionOptions(urls=(nats_server.url,)), name="orders")

    def bad(event: ConnectionEvent) -> None:
        raise RuntimeError(f"cannot stand {event.value}")

    connection.add_listener(bad)
    watched = Watched(connection)
    await connection.start()
    try:
        await connection.wait_connected(20)
        nats_server.restart()
        await eventually(lambda: watched.events == [CONNECTED, DISCONNECTED, CONNECTED])
        assert "cannot stand disconnected" in caplog.text
        connection.remove_listener(bad)
        connection.remove_listener(bad)
    finally:
        await connection.close()
    assert watched.events[-1] is CLOSED


# --- permissions


def restricted(publish: str, subscribe: str) -> str:
    permissions = f"permissions: {{ publish: [{publish}], subscribe: [{subscribe}] }}"
    return f"authorization {{ users: [{{ user: api, password: right, {permissions} }}] }}"


async def test_a_restricted_user_asks_and_publishes_through_its_inbox_prefix() -> None:
    config = restricted('"$JS.API.INFO", "orders.>"', '"_INBOX_orders.>"')
    with NatsServer(config=config) as server:
        async with connected(server.url, inbox_prefix="_INBOX_orders", **LOGIN) as watched:
            answer = await watched.connection.request("$JS.API.INFO", timeout=10)
            assert b'"streams"' in answer.data


async def test_a_refused_subject_fails_at_once_by_name() -> None:
    config = restricted('"orders.>"', '"_INBOX_orders.>"')
    with NatsServer(config=config) as server:
        async with connected(server.url, inbox_prefix="_INBOX_orders", **LOGIN) as watched:
            began = time.monotonic()
            with pytest.raises(
                PermissionDeniedError, match=r"publish on \$JS\.API\.STREAM\.NAMES;"
            ):
                await watched.connection.request("$JS.API.STREAM.NAMES", timeout=30)
            assert time.monotonic() - began < 10
            assert watched.connection.denial("$JS.API.STREAM.NAMES") is not None
            assert watched.connection.denial("orders.created") is None
            assert await watched.connection.probe() < 5
            assert watched.connection.connected


async def test_looking_after_the_connection_needs_no_right_at_all() -> None:
    with NatsServer(config=restricted('"orders.>"', '"orders.>"')) as server:
        async with connected(server.url, timing=QUICK, **LOGIN) as watched:
            client = client_of(watched)
            await eventually(lambda: client._pongs_received >= 10)
            assert await watched.connection.probe() < 5
            assert watched.events == [CONNECTED]
            assert "Violation" not in server.log  # each refusal is a line there


async def test_an_answer_that_comes_after_its_time_harms_nothing(nats_server: NatsServer) -> None:
    timing = Timing(probe_interval=30)
    async with connected(nats_server.url, timing=timing) as watched:
        client = client_of(watched)
        nats_server.pause()
        with pytest.raises(RequestTimeoutError, match=r"no answer to a ping within 0\.2 s"):
            await watched.connection.probe(timeout=0.2)
        nats_server.resume()
        assert await watched.connection.probe() < 5
        assert await watched.connection.request("$JS.API.INFO", timeout=10)
        assert watched.connection.client is client


async def test_refused_acknowledgements_count_as_one_right_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nats_session, "_DENIAL_KEPT", 0.5)
    with NatsServer(config=restricted('"orders.>"', '"_INBOX_orders.>"')) as server:
        async with connected(server.url, inbox_prefix="_INBOX_orders", **LOGIN) as watched:
            connection = watched.connection
            for subject in (
                "$JS.ACK.Stream.worker.1.1.1.17.0",
                "$JS.ACK.Stream.worker.1.2.2.17.0",
                "$JS.ACK._.szMpdrwD.Stream.further.1.1.1.17.0",  # as a feature flag has it
            ):
                await client_of(watched).publish(subject, b"+ACK")
            right = "$JS.ACK.Stream.worker.>"
            await eventually(
                lambda: f"publish on {right}; grant" in (connection.denial(right) or "")
            )
            await eventually(lambda: connection.denial("$JS.ACK.Stream.further.>"))
            assert connection.denial("$JS.ACK.Stream.other.>") is None
            await eventually(lambda: connection.denial(right) is None)  # it may be granted by now


async def test_a_refused_inbox_is_told_and_works_once_it_is_granted() -> None:
    timing = Timing(probe_interval=0.1, probe_timeout=0.3, denied_inbox_retry=1.0)
    with NatsServer(config=restricted('">"', '"orders.>"')) as server:
        async with connected(server.url, timing=timing, **LOGIN) as watched:
            with pytest.raises(PermissionDeniedError, match=r"subscribe to _INBOX\.>"):
                await watched.connection.request("$JS.API.INFO", timeout=5)
            assert "subscribe to _INBOX" in (watched.connection.error or "")
            server.reload(restricted('">"', '"_INBOX.>"'))
            await eventually(lambda: REPLACED in watched.events)
            await watched.connection.wait_connected(20)
            await watched.connection.request("$JS.API.INFO", timeout=10)


async def test_jetstream_switched_off_is_an_answer() -> None:
    with NatsServer(jetstream=False) as server:
        async with connected(server.url, timing=QUICK) as watched:
            with pytest.raises(NoRespondersError, match=r"\$JS\.API\.INFO"):
                await watched.connection.request("$JS.API.INFO", timeout=10)
            client = client_of(watched)
            await eventually(lambda: client._pongs_received >= 8)
            assert watched.events == [CONNECTED]


# --- the end


async def test_close_is_bounded_with_unsent_data_on_a_frozen_server(
    nats_server: NatsServer,
) -> None:
    async with connected(nats_server.url) as watched:
        client = client_of(watched)
        nats_server.pause()
        for _ in range(20):  # more than the kernel's buffers take
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(client.publish("x", b"x" * 1_000_000), 0.05)
        began = time.monotonic()
        await watched.connection.close(timeout=1)
        assert time.monotonic() - began < 6
        assert watched.connection.state == "closed"


async def test_close_is_bounded_while_a_server_accepts_and_says_nothing() -> None:
    accepted = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, connected(f"nats://127.0.0.1:{port}", wait=False) as watched:
        await asyncio.wait_for(accepted.wait(), 10)
        began = time.monotonic()
        await watched.connection.close(timeout=1)
        assert time.monotonic() - began < 6


async def test_close_sends_what_was_published_before(nats_server: NatsServer) -> None:
    async with connected(nats_server.url) as other:
        listener = client_of(other)
        subscription = await listener.subscribe("orders")
        await other.connection.probe()
        async with connected(nats_server.url) as watched:
            client = client_of(watched)
            for _ in range(500):
                await client.publish("orders", b"x")
        for _ in range(500):
            await subscription.next_msg(2)


async def test_after_close_nothing_connects_any_more(nats_server: NatsServer) -> None:
    async with connected(nats_server.url) as watched:
        await watched.connection.close()
        await watched.connection.close()
        assert watched.events == [CONNECTED, CLOSED]
        assert watched.connection.client is None
        with pytest.raises(NotConnectedError, match="closed"):
            await watched.connection.wait_connected(1)
        with pytest.raises(RuntimeError):
            await watched.connection.start()


async def test_a_supervisor_that_dies_is_named_and_its_successor_makes_a_new_client(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Connection, session: object) -> str:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(Connection, "_watch", broken)
        watching = connected(nats_server.url, wait=False)
        watched = await watching.__aenter__()
        await eventually(lambda: "ZeroDivisionError" in "".join(watched.connection.failures()))
    await eventually(lambda: watched.connection.connected and not watched.connection.failures())
    assert watched.events[-2:] == [DISCONNECTED, REPLACED]
    await watching.__aexit__(None, None, None)
