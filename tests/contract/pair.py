"""The mock and a real nats-server, asked the same one after the other: their answers must agree.

Each has an event loop of its own, because the mock's clock jumps and the server's does not. What
the server does a moment later (a consumer that hears of a deleted message) is waited for: its
state counts when it agrees with the mock's, and is a difference when it never does.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Self

from nats.aio.client import Client
from nats.aio.msg import Msg

from jetstream_bridge.testing import MockServer, VirtualClock
from jetstream_bridge.testing.servers import NatsServer
from tests.brokers import Broker, MockBroker, RealBroker
from tests.contract.lab import Json
from tests.waiting import eventually

LIMIT = 20.0  # seconds for an answer on a machine that is busy with something else
_CONSUMER_FIELDS = ("num_pending", "num_ack_pending", "num_redelivered", "num_waiting")
_STREAM_FIELDS = ("messages", "bytes", "first_seq", "last_seq", "num_subjects")

Question = Callable[["Side"], Awaitable[Any]]


class Side:
    """One of the two: its server, its loop, its client, and the deliveries that it made."""

    def __init__(self, broker: Broker, loop: asyncio.AbstractEventLoop, stream: str) -> None:
        self.broker = broker
        self.stream = stream
        self.held: list[Msg] = []
        self.arrived: dict[str, list[Msg]] = {}
        self._loop = loop
        self._client: Client | None = None

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)

    @property
    def client(self) -> Client:
        assert self._client is not None, "connect first"
        return self._client

    async def connect(self) -> None:
        self._client = await self.broker.connect()

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def restart(self) -> None:
        """Stop the server in order and start it again; its streams stay."""
        await self.close()
        self.broker.terminate()
        self.broker.start()
        await self.connect()
        await self.listen(list(self.arrived))

    # --- asking

    async def api(self, operation: str, body: Json | None = None) -> Json:
        """Ask JetStream's API about this side's stream, which `operation` calls S."""
        payload = b"" if body is None else json.dumps(body).encode()
        subject = ".".join(self.stream if t == "S" else t for t in operation.split("."))
        reply = await self.client.request(f"$JS.API.{subject}", payload, timeout=LIMIT)
        answer: Json = json.loads(reply.data)
        return answer

    async def publish(self, subject: str, data: str, headers: dict[str, str]) -> Json:
        subject = f"{self.stream}.{subject}"
        reply = await self.client.request(
            subject, data.encode(), timeout=LIMIT, headers=headers or None
        )
        answer: Json = json.loads(reply.data)
        answer.pop("stream", None)
        return answer

    async def answer(self, place: int, word: bytes) -> bool:
        """Say what became of a delivery; tell whether the server confirmed that."""
        reply = self.held[place].reply
        try:
            return (await self.client.request(reply, word, timeout=LIMIT)).data == b""
        except TimeoutError:
            return False

    async def say(self, place: int, word: bytes) -> None:
        """The same without waiting for a confirmation that does not come."""
        await self.client.publish(self.held[place].reply, word)

    # --- pulling

    async def listen(self, consumers: Sequence[str]) -> None:
        """Have an inbox for each consumer, in which its deliveries and statuses gather."""
        for name in consumers:
            self.arrived.setdefault(name, [])
            await self.client.subscribe(self._inbox(name), cb=self._keep(name))

    async def ask(self, consumer: str, request: Json) -> None:
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{consumer}"
        body = json.dumps(request).encode()
        await self.client.publish(subject, body, reply=self._inbox(consumer))

    def taken(self, consumer: str) -> list[Json]:
        """What arrived since the last time; deliveries are `held` from now on."""
        came, self.arrived[consumer] = self.arrived[consumer], []
        self.held += [message for message in came if not _status(message)]
        return [self._told(message) for message in came]

    def _inbox(self, consumer: str) -> str:
        return f"_INBOX.{self.stream}.{consumer}"

    def _keep(self, consumer: str) -> Callable[[Msg], Awaitable[None]]:
        async def keep(message: Msg) -> None:
            self.arrived[consumer].append(message)

        return keep

    def _told(self, message: Msg) -> Json:
        if status := _status(message):
            return {"status": status}
        about = message.metadata
        return {
            "subject": message.subject.removeprefix(f"{self.stream}."),
            "data": message.data.decode(),
            "headers": dict(message.headers or {}),
            "tries": about.num_delivered,
            "sequence": (about.sequence.stream, about.sequence.consumer),
            "num_pending": about.num_pending,
        }

    # --- looking

    async def state(self, consumers: Sequence[str]) -> Json:
        """All that can be seen of the stream and its consumers, times apart."""
        info = await self.api("STREAM.INFO.S", {"subjects_filter": ">"})
        found: Json = {field: info["state"].get(field, 0) for field in _STREAM_FIELDS}
        found["subjects"] = {
            subject.removeprefix(f"{self.stream}."): number
            for subject, number in (info["state"].get("subjects") or {}).items()
        }
        # A longer name makes a longer subject: what is stored is counted without it.
        found["bytes"] -= len(self.stream) * found["messages"]
        if found["messages"]:
            # nats-server may count from a message that is deleted: after a purge by sequence
            # of a stream that is empty already it does.
            first = await self.api("STREAM.MSG.GET.S", {"seq": 1, "next_by_subj": ">"})
            found["first_seq"] = first["message"]["seq"]
        for name in consumers:
            found[name] = _seen(await self.api(f"CONSUMER.INFO.S.{name}"))
        return found


class Pair:
    """Both sides of one example."""

    _names = (f"S{number:04d}" for number in itertools.count())

    def __init__(self, server: NatsServer, loop: asyncio.AbstractEventLoop) -> None:
        mock_loop = asyncio.new_event_loop()
        self._mock_loop = mock_loop
        self._clock = VirtualClock(mock_loop)
        name = next(self._names)
        self.mock = Side(MockBroker(MockServer(), self._clock), mock_loop, name)
        self.real = Side(RealBroker(server), loop, name)

    def __enter__(self) -> Self:
        self._clock.__enter__()
        for side in (self.mock, self.real):
            side.run(side.connect())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.real.run(self.real.api("STREAM.DELETE.S"))
            for side in (self.mock, self.real):
                side.run(side.close())
        finally:
            self._clock.__exit__()
            self._mock_loop.close()

    def agree(self, question: Question) -> Any:
        """Put `question` to both; return the answer, which is one."""
        mock, real = (side.run(_asked(question, side)) for side in (self.mock, self.real))
        assert mock == real, f"the mock answered\n{mock}\nand nats-server\n{real}"
        return real

    def answer(self, place: int, word: bytes) -> None:
        """Say the same to both, and have the server confirm it where the mock does."""
        if self.mock.run(self.mock.answer(place, word)):
            assert self.real.run(self.real.answer(place, word)), f"no confirmation of {word!r}"
        else:
            self.real.run(self.real.say(place, word))

    def look_alike(self, consumers: Sequence[str], *, after: float = 0.0) -> Json:
        """Compare all that can be seen of both, `after` seconds; return it."""
        self.mock.run(self._clock.advance(after))
        mock = {name: self.mock.taken(name) for name in consumers}
        self.real.run(self._until_arrived({name: len(came) for name, came in mock.items()}))
        real = {name: self.real.taken(name) for name in consumers}
        _compare("arrived", mock, real)
        state: Json = self.mock.run(self.mock.state(consumers))
        _compare("state", state, self.real.run(self._until_like(state, consumers)))
        return state

    async def _until_arrived(self, numbers: Mapping[str, int]) -> None:
        arrived = self.real.arrived
        with contextlib.suppress(AssertionError):  # a difference, and reported as such
            await eventually(
                lambda: all(len(arrived[name]) >= number for name, number in numbers.items()),
                limit=LIMIT,
            )

    async def _until_like(self, mock: Json, consumers: Sequence[str]) -> Json:
        real: Json = {}

        async def alike() -> bool:
            real.update(await self.real.state(consumers))
            return real == mock

        with contextlib.suppress(AssertionError):  # a difference, and reported as such
            await eventually(alike, limit=LIMIT)
        return real


def _compare(what: str, mock: Json, real: Json) -> None:
    differences = {name: (mock[name], real[name]) for name in mock if mock[name] != real[name]}
    assert not differences, f"{what}: (mock, nats-server) differ in {differences}"


def _status(message: Msg) -> tuple[str, str] | None:
    headers = message.headers or {}
    return (headers["Status"], headers.get("Description", "")) if "Status" in headers else None


async def _asked(question: Question, side: Side) -> Any:
    return await question(side)


def _seen(info: Json) -> Json:
    if "error" in info:
        return {"error": info["error"]["err_code"]}
    places = {place: dict(info[place]) for place in ("delivered", "ack_floor")}
    if info["config"]["max_deliver"] > 0:
        # How far it comes past a message that was delivered for the last time depends on how
        # that one went, and no service may rely on it.
        del places["ack_floor"]
    for place in places.values():
        place.pop("last_active", None)
        # Where it stands among messages that it does not deliver is the server's own affair.
        if "filter_subject" in info["config"]:
            place.pop("stream_seq")
    return {**places, **{field: info[field] for field in _CONSUMER_FIELDS}}
