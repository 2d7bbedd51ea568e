"""The pull loop: what the server says of a request, and what the loop makes of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from nats.aio.msg import Msg

from jetstream_bridge.core.config import ConnectionOptions
from jetstream_bridge.core.errors import TopologyError
from jetstream_bridge.core.tasks import Tasks
from jetstream_bridge.nats.connection import Connection
from jetstream_bridge.nats.pull_loop import SILENCE, PullLoop
from jetstream_bridge.nats.pull_requests import PullCapacity
from jetstream_bridge.testing import MockServer, VirtualClock
from tests.waiting import eventually

MUCH = 64 * 1024 * 1024
NEXT = "$JS.API.CONSUMER.MSG.NEXT.S.c"


class Pulling:
    """A loop on the consumer c of the stream S, and what reached it."""

    def __init__(self, connection: Connection, server: MockServer) -> None:
        self.server = server
        self.came: list[str] = []
        self.room = 10
        self.bytes = MUCH
        self.held = 0
        self.refuses: bytes | None = None
        self.ensured = 0
        self.error: Exception | None = None
        self.loop = PullLoop(
            connection,
            stream="S",
            durable="c",
            deliver=self._deliver,
            room=lambda: PullCapacity(self.room, self.bytes - self.held, not self.held),
            ensure=self._ensure,
        )

    def _deliver(self, msg: Msg) -> None:
        if msg.data == self.refuses:
            raise ValueError("no message of the consumer")
        self.held += len(msg.data)
        self.came.append(msg.data.decode())

    async def _ensure(self) -> None:
        if self.error is not None:
            raise self.error
        if "c" not in self.server.streams["S"].consumers:
            await make_consumer(self.server)
        self.ensured += 1

    @property
    def waiting(self) -> int:
        return int(self.server.streams["S"].consumers["c"].info()["num_waiting"])


async def make_consumer(server: MockServer, **config: object) -> None:
    settings = {"durable_name": "c", "ack_policy": "explicit", **config}
    request = json.dumps({"stream_name": "S", "config": settings}).encode()
    client = await server.connect()
    await client.request("$JS.API.CONSUMER.DURABLE.CREATE.S.c", request)
    await client.close()


@contextlib.asynccontextmanager
async def pulling(server: MockServer) -> AsyncIterator[Pulling]:
    connection = Connection(
        ConnectionOptions(urls=(server.url,)), name="orders", make_client=server.client
    )
    tasks = Tasks()
    pulling = Pulling(connection, server)
    await connection.start()
    tasks.start("pull", pulling.loop.run)
    try:
        yield pulling
    finally:
        await pulling.loop.stop()
        await tasks.cancel()
        await connection.close(timeout=3)
    assert tasks.failures() == []


@pytest.fixture
async def server(mock_nats: MockServer) -> MockServer:
    client = await mock_nats.connect()
    await client.jetstream().add_stream(name="S", subjects=["s.>"])
    await client.close()
    return mock_nats


async def test_what_is_stored_arrives_and_the_loop_asks_again_at_half(
    server: MockServer, clock: VirtualClock
) -> None:
    async with pulling(server) as pulled:
        await eventually(lambda: pulled.loop.problem is None)
        for number in range(30):
            server.put("s.a", str(number).encode())
        await eventually(lambda: len(pulled.came) == 30)
        assert pulled.came == [str(number) for number in range(30)]
        assert pulled.ensured == 1


async def test_without_room_nothing_is_asked_for(server: MockServer, clock: VirtualClock) -> None:
    async with pulling(server) as pulled:
        pulled.room = 0
        server.put("s.a", b"1")
        await clock.advance("2m")
        assert pulled.came == []
        pulled.room = 1
        pulled.loop.poke()
        await eventually(lambda: pulled.came == ["1"])


async def test_an_idle_consumer_is_no_problem(server: MockServer, clock: VirtualClock) -> None:
    async with pulling(server) as pulled:
        await clock.advance("5m")
        assert (pulled.loop.problem, pulled.ensured, pulled.waiting) == (None, 1, 1)


async def test_a_deleted_consumer_is_ensured_again(server: MockServer, clock: VirtualClock) -> None:
    async with pulling(server) as pulled:
        await eventually(lambda: pulled.loop.problem is None)
        await clock.settle()
        server.drop_consumer("S", "c")
        await eventually(lambda: pulled.ensured == 2)
        server.put("s.a", b"1")
        await eventually(lambda: pulled.came == ["1"])


async def test_requests_that_get_no_sign_of_life_are_asked_anew_and_then_a_problem(
    server: MockServer, clock: VirtualClock
) -> None:
    async with pulling(server) as pulled:
        await eventually(lambda: pulled.loop.problem is None)
        server.faults.ignore_api(NEXT, times=100)
        server.restart()  # the open request is lost with it
        await clock.advance(4 * SILENCE)
        assert pulled.loop.problem == "the server does not answer pull requests for c"
        server.faults.clear()
        server.put("s.a", b"1")
        await eventually(lambda: pulled.came == ["1"], limit=60)
        assert pulled.loop.problem is None


async def test_a_refusal_is_told_and_tried_again_with_growing_pauses(
    server: MockServer, clock: VirtualClock
) -> None:
    await make_consumer(server, max_waiting=1)
    other = await server.connect()
    await other.publish(NEXT, b"1", reply=other.new_inbox())
    async with pulling(server) as pulled:
        await clock.advance("1m")
        assert "409 Exceeded MaxWaiting" in (pulled.loop.problem or "")
        assert 10 < pulled.ensured < 40
        await other.close()
        server.put("s.a", b"1")
        await eventually(lambda: pulled.came == ["1"], limit=60)
        assert pulled.loop.problem is None


@pytest.mark.parametrize(
    "limits",
    [{"max_batch": 3}, {"max_expires": 2_000_000_000}, {"max_batch": 1, "max_waiting": 2}],
)
async def test_limits_of_requests_are_learned_and_hold_nothing_up(
    server: MockServer, clock: VirtualClock, limits: dict[str, int]
) -> None:
    await make_consumer(server, **limits)
    async with pulling(server) as pulled:
        for number in range(50):
            server.put("s.a", str(number).encode())
        await eventually(lambda: len(pulled.came) == 50)
        await clock.advance("10s")
        assert pulled.came == [str(number) for number in range(50)]
        assert (pulled.ensured, pulled.loop.problem) == (1, None)


async def test_large_messages_come_as_far_as_there_is_room_for_their_bytes(
    server: MockServer, clock: VirtualClock
) -> None:
    body = b"x" * 700_000
    async with pulling(server) as pulled:
        pulled.held = 0
        pulled.bytes = 4_000_000
        for _ in range(20):
            server.put("s.a", body)
        pulled.loop.poke()
        await clock.advance("1m")
        assert 2_000_000 <= pulled.held <= 4_000_000

        def handled() -> bool:
            assert pulled.held <= 4_000_000
            pulled.held = 0
            pulled.loop.poke()
            return len(pulled.came) >= 20

        await eventually(handled)
        assert pulled.loop.problem is None


async def test_a_message_larger_than_all_room_comes_alone(
    server: MockServer, clock: VirtualClock
) -> None:
    async with pulling(server) as pulled:
        pulled.bytes = 1000
        for _ in range(3):
            server.put("s.a", b"x" * 5000)
        pulled.loop.poke()
        await clock.advance("1m")
        assert len(pulled.came) == 1
        pulled.held = 0
        pulled.loop.poke()
        await eventually(lambda: len(pulled.came) == 2)
        await clock.advance("10s")
        assert len(pulled.came) == 2


async def test_what_is_no_message_of_the_consumer_holds_nothing_up(
    server: MockServer, clock: VirtualClock
) -> None:
    async with pulling(server) as pulled:
        pulled.refuses = b"odd"
        server.put("s.a", b"odd")
        server.put("s.a", b"fine")
        await eventually(lambda: pulled.came == ["fine"])


async def test_a_durable_that_cannot_be_made_is_a_problem_until_it_can(
    server: MockServer, clock: VirtualClock
) -> None:
    async with pulling(server) as pulled:
        pulled.error = TopologyError("somebody else reads it")
        await clock.advance("1m")
        assert pulled.loop.problem == "cannot pull from c: somebody else reads it"
        pulled.error = None
        server.put("s.a", b"1")
        await eventually(lambda: pulled.came == ["1"], limit=60)


async def test_without_a_server_it_says_so_and_goes_on_later(
    server: MockServer, clock: VirtualClock
) -> None:
    server.stop()
    async with pulling(server) as pulled:
        await clock.advance("10s")
        assert pulled.loop.problem == "not connected to NATS"
        server.start()
        server_has = server.streams["S"]
        assert server_has.last_seq == 0
        await eventually(lambda: pulled.loop.problem is None, limit=60)


async def test_stopping_ends_in_time_when_the_server_does_not_answer(
    server: MockServer, clock: VirtualClock
) -> None:
    async with pulling(server) as pulled:
        await eventually(lambda: pulled.loop.problem is None)
        await clock.settle()
        server.faults.ignore_api("$JS.API.CONSUMER.INFO.>")
        began = clock.elapsed
        await pulled.loop.stop()
        assert clock.elapsed - began < 5
