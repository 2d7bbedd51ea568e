"""What the mock has beside JetStream's behaviour: its clock, its faults, and its refusals."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import aiosqlite
import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client
from nats.js.api import ConsumerConfig, StreamConfig

from jetstream_bridge.testing import MockServer, NotSimulated, VirtualClock


@pytest.fixture
def server(mock_nats: MockServer) -> MockServer:
    return mock_nats


@pytest.fixture
async def client(server: MockServer) -> AsyncIterator[Client]:
    client = await server.connect()
    await client.jetstream().add_stream(name="S", subjects=["s.>"])
    yield client
    await client.close()


# --- the clock


async def test_waiting_takes_no_time(clock: VirtualClock) -> None:
    began = time.perf_counter()
    await asyncio.sleep(3600)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 3600)
    assert clock.elapsed >= 7200
    assert time.perf_counter() - began < 1


async def test_time_stands_still_while_somebody_can_run(clock: VirtualClock) -> None:
    before = clock.elapsed
    for _ in range(1000):
        await asyncio.sleep(0)
    assert clock.elapsed == before


async def test_timers_keep_their_order(clock: VirtualClock) -> None:
    order: list[int] = []
    loop = asyncio.get_running_loop()
    for n in (3, 1, 2):
        loop.call_later(n, order.append, n)
    await clock.advance("2500ms")
    assert order == [1, 2]
    await clock.advance(1)
    assert order == [1, 2, 3]


async def test_advance_ends_with_everybody_waiting(clock: VirtualClock) -> None:
    steps: list[int] = []

    async def work() -> None:
        await asyncio.sleep(1)
        for n in range(50):
            steps.append(n)
            await asyncio.sleep(0)

    task = asyncio.create_task(work())
    await clock.advance("1s")
    assert len(steps) == 50
    await task


async def test_work_in_a_thread_is_not_overtaken(clock: VirtualClock) -> None:
    async with asyncio.timeout(0.01):
        await asyncio.to_thread(time.sleep, 0.05)
    assert clock.elapsed < 0.01


async def test_work_in_a_thread_that_takes_too_long_does_not_stop_time(clock: VirtualClock) -> None:
    """It may wait for what happens only when time goes on."""
    go_on = threading.Event()
    asyncio.get_running_loop().call_later(0.02, go_on.set)
    assert await asyncio.to_thread(go_on.wait, 10)


async def test_work_handed_straight_to_an_sqlite_thread_is_not_overtaken(
    clock: VirtualClock,
) -> None:
    """SQLAlchemy does so when it sets an isolation level."""
    connection = await aiosqlite.connect(":memory:")
    done = asyncio.get_running_loop().create_future()
    finish = threading.Event()
    connection._tx.put_nowait((done, lambda: finish.wait(10)))
    asyncio.get_running_loop().call_later(0.2, finish.set)
    assert await asyncio.wait_for(done, 5) is True
    assert clock.elapsed < 5
    await connection.close()


async def test_a_clock_leaves_its_loop_as_it_was() -> None:
    loop = asyncio.get_running_loop()
    with VirtualClock(loop) as clock:
        await clock.advance("1h")
    assert abs(loop.time() - time.monotonic()) < 1
    began = time.monotonic()
    await asyncio.sleep(0.05)
    assert time.monotonic() - began >= 0.04


# --- faults


async def test_a_lost_ack_leaves_the_message_stored(server: MockServer, client: Client) -> None:
    server.faults.lose_ack("s.a")
    js = client.jetstream()
    await js.publish("s.b", b"not this one")
    with pytest.raises(asyncio.TimeoutError):
        await js.publish("s.a", b"", headers={"Nats-Msg-Id": "x"})
    again = await js.publish("s.a", b"", headers={"Nats-Msg-Id": "x"})
    assert (again.seq, again.duplicate) == (2, True)
    assert server.faults.pending == []


async def test_a_lost_publish_leaves_nothing(server: MockServer, client: Client) -> None:
    server.faults.lose_publish(times=2)
    js = client.jetstream()
    for _ in range(2):
        with pytest.raises(asyncio.TimeoutError):
            await js.publish("s.a", b"")
    assert (await js.publish("s.a", b"")).seq == 1


async def test_a_delayed_ack(server: MockServer, client: Client, clock: VirtualClock) -> None:
    server.faults.delay_ack("3s")
    before = clock.elapsed
    assert (await client.jetstream().publish("s.a", b"")).seq == 1
    assert 3 <= clock.elapsed - before < 3.1


@pytest.mark.parametrize(("code", "status"), [(10077, 503), (10002, 400), (10158, 409)])
async def test_a_refused_publish(
    server: MockServer, client: Client, code: int, status: int
) -> None:
    server.faults.refuse_publish(code)
    with pytest.raises(nats.js.errors.APIError) as refused:
        await client.jetstream().publish("s.a", b"")
    assert (refused.value.code, refused.value.err_code) == (status, code)
    await client.jetstream().publish("s.a", b"")


async def test_a_full_stream(server: MockServer, client: Client) -> None:
    server.fill("S")
    with pytest.raises(nats.js.errors.ServiceUnavailableError):
        await client.jetstream().publish("s.a", b"")
    server.fill("S", full=False)
    await client.jetstream().publish("s.a", b"")


async def test_a_slow_server(server: MockServer, client: Client, clock: VirtualClock) -> None:
    server.faults.slow("200ms")
    before = clock.elapsed
    for _ in range(5):
        await client.jetstream().account_info()
    assert 1.0 <= clock.elapsed - before < 1.1
    with pytest.raises(asyncio.TimeoutError):
        await client.request("$JS.API.INFO", b"", timeout=0.1)


async def test_away_for_a_while(server: MockServer, client: Client, clock: VirtualClock) -> None:
    server.disconnect("5s")
    await clock.advance("1s")
    assert not client.is_connected
    await clock.advance("10s")
    assert client.is_connected


async def test_a_denied_publish(server: MockServer, clock: VirtualClock) -> None:
    errors: list[Exception] = []

    async def note(error: Exception) -> None:
        errors.append(error)

    client = await server.connect(error_cb=note)
    server.faults.deny_publish("s.*")
    with pytest.raises(asyncio.TimeoutError):
        await client.request("s.a", b"", timeout=1)
    assert 'permissions violation for publish to "s.a"' in str(errors[0]).lower()
    server.faults.permit("s.*")
    await client.jetstream().add_stream(name="S", subjects=["s.>"])
    await client.jetstream().publish("s.a", b"")
    await client.close()


async def test_a_lost_answer_means_another_delivery(
    server: MockServer, client: Client, clock: VirtualClock
) -> None:
    js = client.jetstream()
    await js.add_consumer("S", ConsumerConfig(durable_name="c", ack_wait=30))
    await js.publish("s.a", b"")
    subscription = await js.pull_subscribe_bind("c", "S")
    server.faults.lose_answer()
    [message] = await subscription.fetch(1, timeout=1)
    await message.ack()
    await clock.advance("31s")
    [message] = await subscription.fetch(1, timeout=1)
    assert message.metadata.num_delivered == 2
    await subscription.unsubscribe()


async def test_an_unanswered_request(server: MockServer, client: Client) -> None:
    server.faults.ignore_api("$JS.API.STREAM.INFO.*")
    js = client.jetstream()
    with pytest.raises(asyncio.TimeoutError):
        await js.stream_info("S")
    await js.stream_info("S")


def test_a_fault_happens_at_least_once() -> None:
    with pytest.raises(ValueError, match="times is 0"):
        MockServer().faults.lose_ack(times=0)


# --- refusals


async def _advisories(client: Client) -> None:
    await client.subscribe("$JS.EVENT.>")


async def _queue_group(client: Client) -> None:
    await client.subscribe("a", queue="workers")


async def _direct_get(client: Client) -> None:
    await client.request("$JS.API.DIRECT.GET.S", b"{}", timeout=1)


async def _snapshot(client: Client) -> None:
    await client.request("$JS.API.STREAM.SNAPSHOT.S", b"{}", timeout=1)


async def _interest(client: Client) -> None:
    await client.jetstream().add_stream(name="I", subjects=["i"], retention="interest")


async def _mirror(client: Client) -> None:
    await client.jetstream().add_stream(
        StreamConfig(name="M", mirror=nats.js.api.StreamSource(name="S"))
    )


async def _push(client: Client) -> None:
    config = ConsumerConfig(durable_name="p", deliver_subject="to.me")
    await client.jetstream().add_consumer("S", config)


async def _ephemeral(client: Client) -> None:
    await client.jetstream().add_consumer("S", ConsumerConfig())


async def _backoff(client: Client) -> None:
    config = ConsumerConfig(durable_name="b", backoff=[1.0, 2.0])
    await client.jetstream().add_consumer("S", config)


async def _no_acks(client: Client) -> None:
    config = ConsumerConfig(durable_name="n", ack_policy=nats.js.api.AckPolicy.NONE)
    await client.jetstream().add_consumer("S", config)


async def _partial_purge(client: Client) -> None:
    config = ConsumerConfig(durable_name="f", filter_subject="s.a")
    await client.jetstream().add_consumer("S", config)
    await client.jetstream().purge_stream("S", keep=1)


async def _key_value(client: Client) -> None:
    await client.jetstream().create_key_value(bucket="b")


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (_advisories, r"\$JS.EVENT.>"),
        (_queue_group, "queue group workers"),
        (_direct_get, r"\$JS.API.DIRECT.GET.S"),
        (_snapshot, r"\$JS.API.STREAM.SNAPSHOT.S"),
        (_interest, "interest"),
        (_mirror, "mirror"),
        (_push, "deliver_subject"),
        (_ephemeral, "not durable"),
        (_backoff, "backoff"),
        (_no_acks, "ack_policy"),
        (_partial_purge, "beside a filtered consumer"),
        (_key_value, "allow_rollup_hdrs"),
    ],
)
async def test_what_is_not_imitated_says_so_to_the_caller(
    client: Client, call: Any, named: str
) -> None:
    with pytest.raises(NotSimulated, match=named):
        await call(client)
