"""The client's states and callbacks, core messages, and what the server refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client

from tests.brokers import Broker
from tests.contract.lab import Lab
from tests.waiting import eventually


class Calls:
    """Callbacks that note what they were told."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.errors: list[Exception] = []

    @property
    def options(self) -> dict[str, Any]:
        names = ("disconnected_cb", "reconnected_cb", "closed_cb")
        return {name: self._note(name.removesuffix("_cb")) for name in names} | {
            "error_cb": self._error,
            "reconnect_time_wait": 0.1,
        }

    def _note(self, name: str) -> Callable[[], Any]:
        async def note() -> None:
            self.names.append(name)

        return note

    async def _error(self, error: Exception) -> None:
        self.errors.append(error)


async def settle(client: Client) -> None:
    """Return when the server has read all that `client` sent: it answers in turn."""
    with pytest.raises(nats.errors.NoRespondersError):
        await client.request("nobody", b"", timeout=10)


async def test_the_server_says_who_it_is(lab: Lab) -> None:
    assert lab.client.is_connected
    assert lab.client.max_payload == 1024 * 1024
    assert lab.client.connected_server_version.major == 2
    assert lab.client.client_id is not None


async def test_a_closed_client_can_do_nothing(broker: Broker) -> None:
    calls = Calls()
    client = await broker.connect(**calls.options)
    await client.close()
    assert client.is_closed
    assert calls.names == ["disconnected", "closed"]
    with pytest.raises(nats.errors.ConnectionClosedError):
        await client.publish("a", b"")
    with pytest.raises(nats.errors.ConnectionClosedError):
        await client.request("a", b"", timeout=1)


async def test_close_sends_what_is_buffered(lab: Lab) -> None:
    await lab.stream()
    other = await lab.broker.connect()
    for n in range(100):
        await other.publish("s.a", str(n).encode())
    await other.close()

    async def stored() -> bool:
        return bool((await lab.state())["messages"] == 100)

    await eventually(stored)


async def test_a_lost_connection_comes_back_with_its_subscriptions(broker: Broker) -> None:
    calls = Calls()
    client = await broker.connect(**calls.options)
    heard = await client.subscribe("a.*")
    broker.kill()
    await eventually(lambda: client.is_reconnecting)
    assert not client.is_connected
    broker.start()
    await eventually(lambda: client.is_connected)
    await eventually(lambda: calls.names == ["disconnected", "reconnected"])
    await client.publish("a.b", b"x")
    assert (await heard.next_msg(timeout=10)).data == b"x"
    assert client.stats["reconnects"] == 1
    await client.close()


async def test_what_is_published_meanwhile_is_sent_later(lab: Lab) -> None:
    await lab.stream()
    calls = Calls()
    client = await lab.broker.connect(**calls.options)
    lab.broker.kill()
    await eventually(lambda: client.is_reconnecting)
    await client.publish("s.a", b"buffered")
    lab.broker.start()
    await eventually(lambda: client.is_connected)
    await eventually(lambda: lab.client.is_connected)

    async def stored() -> bool:
        return bool((await lab.state())["messages"] == 1)

    await eventually(stored)
    await client.close()


async def test_a_request_that_the_server_did_not_live_to_answer_times_out(broker: Broker) -> None:
    client = await broker.connect(**Calls().options)
    await client.subscribe("silent")
    asking = asyncio.create_task(client.request("silent", b"", timeout=0.5))
    await broker.passes(0.1)
    broker.kill()
    broker.start()
    with pytest.raises(asyncio.TimeoutError):
        await asking
    await client.close()


async def test_nobody_lets_us_in(broker: Broker) -> None:
    broker.kill()
    with pytest.raises((nats.errors.NoServersError, OSError)):
        await broker.connect(
            **Calls().options | {"allow_reconnect": False, "max_reconnect_attempts": 1}
        )


async def test_too_large_with_its_headers_closes_the_client_for_good(broker: Broker) -> None:
    calls = Calls()
    client = await broker.connect(**calls.options)
    body = b"x" * client.max_payload
    await client.publish("a", body, headers={"a": "b"})
    await eventually(lambda: client.is_closed)
    await eventually(lambda: "closed" in calls.names)
    assert "reconnected" not in calls.names


async def test_requests_find_their_answers(lab: Lab) -> None:
    async def answer(message: Any) -> None:
        await message.respond(b"re: " + message.data)

    await lab.client.subscribe("ask.*", cb=answer)
    replies = await asyncio.gather(
        *(lab.client.request(f"ask.{n}", str(n).encode(), timeout=10) for n in range(20))
    )
    assert [reply.data for reply in replies] == [f"re: {n}".encode() for n in range(20)]


@pytest.mark.parametrize("old_style", [False, True])
async def test_nobody_to_answer(lab: Lab, old_style: bool) -> None:
    with pytest.raises(nats.errors.NoRespondersError):
        await lab.client.request("nobody", b"", timeout=2, old_style=old_style)


async def test_wildcards_of_subscriptions(lab: Lab) -> None:
    heard: list[str] = []

    async def hear(message: Any) -> None:
        heard.append(message.subject)

    await lab.client.subscribe("a.*.c", cb=hear)
    await lab.client.subscribe("b.>", cb=hear)
    for subject in ("a.b.c", "a.b", "a.b.c.d", "b", "b.x", "b.x.y"):
        await lab.client.publish(subject, b"")
    await eventually(lambda: len(heard) == 3)
    assert heard == ["a.b.c", "b.x", "b.x.y"]


async def test_unsubscribed_is_unheard(lab: Lab) -> None:
    twice: list[bytes] = []

    async def hear(message: Any) -> None:
        twice.append(message.data)

    await (await lab.client.subscribe("a", cb=hear)).unsubscribe(limit=2)
    gone = await lab.client.subscribe("a")
    await gone.unsubscribe()
    for n in range(5):
        await lab.client.publish("a", str(n).encode())
    await eventually(lambda: twice == [b"0", b"1"])
    with pytest.raises(asyncio.TimeoutError):
        await gone.next_msg(timeout=0.2)


async def test_drain_hands_out_what_came_and_closes(broker: Broker, lab: Lab) -> None:
    calls = Calls()
    client = await broker.connect(**calls.options)
    heard: list[bytes] = []

    async def hear(message: Any) -> None:
        heard.append(message.data)

    await client.subscribe("a", cb=hear)
    await settle(client)
    for n in range(10):
        await lab.client.publish("a", str(n).encode())
    await settle(lab.client)
    await client.drain()
    assert client.is_closed
    assert len(heard) == 10
    assert calls.names[-1] == "closed"


async def test_force_reconnect(broker: Broker) -> None:
    calls = Calls()
    client = await broker.connect(**calls.options)
    await client.force_reconnect()
    await eventually(lambda: "reconnected" in calls.names)
    assert client.is_connected
    await client.close()


async def test_no_publish_crosses_a_dead_connection_twice(lab: Lab) -> None:
    """An id makes the second try of a publish harmless, whatever became of the first."""
    await lab.stream()
    client = await lab.broker.connect(**Calls().options)
    js = client.jetstream(timeout=0.5)
    await js.publish("s.a", b"x", headers={"Nats-Msg-Id": "x"})
    lab.broker.kill()
    await eventually(lambda: client.is_reconnecting)
    with pytest.raises(asyncio.TimeoutError):
        await js.publish("s.a", b"y", headers={"Nats-Msg-Id": "y"})
    lab.broker.start()
    await eventually(lambda: client.is_connected)
    ack = await js.publish("s.a", b"y", headers={"Nats-Msg-Id": "y"})
    assert (ack.seq, ack.duplicate) == (2, True)
    await client.close()
