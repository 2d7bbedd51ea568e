"""The mock and a real nats-server, asked the same one after the other: their answers must agree.

Each has an event loop of its own, because the mock's clock jumps and the server's does not. What
the server does a moment later (a consumer that hears of a deleted message) is waited for: its
state counts when it agrees with the mock's, and is a difference when it never does.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Self

from nats.aio.client import Client
from nats.aio.msg import Msg

from app.bridge.testing import MockServer, VirtualClock
from tests.brokers import Broker, MockBroker, RealBroker
from tests.contract.lab import Json
from tests.servers import NatsServer

LIMIT = 20.0  # seconds for an answer on a machine that is busy with something else
_LOOKS_ALIKE = 5.0  # seconds in which the server's state has to become the mock's
_CONSUMER_FIELDS = ("num_pending", "num_ack_pending", "num_redelivered", "num_waiting")
_STREAM_FIELDS = ("messages", "bytes", "first_seq", "last_seq", "num_subjects", "num_deleted")

Question = Callable[["Side"], Awaitable[Any]]


class Side:
    """One of the two: its server, its loop, its client, and the deliveries that it made."""

    def __init__(self, broker: Broker, loop: asyncio.AbstractEventLoop, stream: str) -> None:
        self.broker = broker
        self.stream = stream
        self.held: list[Msg] = []
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

    async def answer(self, message: Msg, word: bytes) -> bytes:
        """Say what became of a delivery, and wait until the server has taken that in."""
        return (await self.client.request(message.reply, word, timeout=LIMIT)).data

    async def pull(self, consumer: str, batch: int) -> Json:
        """Ask for what is there; the end is a full batch, or a status."""
        async with self.asked(consumer, {"batch": batch, "no_wait": True}) as collect:
            return await collect(batch)

    def asked(self, consumer: str, request: Json) -> _Request:
        return _Request(self, f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{consumer}", request)

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
        for name in consumers:
            found[name] = _seen(await self.api(f"CONSUMER.INFO.S.{name}"))
        return found


class _Request:
    """A pull request whose answers come to an inbox of its own."""

    def __init__(self, side: Side, subject: str, request: Json) -> None:
        self._side = side
        self._subject = subject
        self._request = request

    async def __aenter__(self) -> Callable[[int], Awaitable[Json]]:
        client = self._side.client
        inbox = client.new_inbox()
        self._subscription = await client.subscribe(inbox)
        await client.publish(self._subject, json.dumps(self._request).encode(), reply=inbox)
        return self._collect

    async def __aexit__(self, *_: object) -> None:
        await self._subscription.unsubscribe()

    async def _collect(self, batch: int) -> Json:
        came: list[Json] = []
        while len(came) < batch:
            message = await self._subscription.next_msg(timeout=LIMIT)
            headers = message.headers or {}
            if "Status" in headers:
                return {"messages": came, "end": (headers["Status"], headers.get("Description"))}
            self._side.held.append(message)
            came.append(self._told(message))
        return {"messages": came, "end": None}

    def _told(self, message: Msg) -> Json:
        about = message.metadata
        return {
            "subject": message.subject.removeprefix(f"{self._side.stream}."),
            "data": message.data.decode(),
            "headers": dict(message.headers or {}),
            "tries": about.num_delivered,
            "sequence": (about.sequence.stream, about.sequence.consumer),
            "num_pending": about.num_pending,
        }


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

    def look_alike(self, consumers: Sequence[str]) -> Json:
        """Compare what can be seen of both; return it."""
        mock: Json = self.mock.run(self.mock.state(consumers))
        real = self.real.run(self._until_like(mock, consumers))
        differences = {
            name: (mock.get(name), real.get(name))
            for name in sorted({*mock, *real})
            if mock.get(name) != real.get(name)
        }
        assert not differences, f"(mock, nats-server) differ in {differences}"
        return mock

    async def _until_like(self, mock: Json, consumers: Sequence[str]) -> Json:
        deadline = asyncio.get_running_loop().time() + _LOOKS_ALIKE
        while (real := await self.real.state(consumers)) != mock:
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(0.02)
        return real


async def _asked(question: Question, side: Side) -> Any:
    return await question(side)


def _seen(info: Json) -> Json:
    if "error" in info:
        return {"error": info["error"]["err_code"]}
    places = {
        place: (info[place]["consumer_seq"], info[place]["stream_seq"])
        for place in ("delivered", "ack_floor")
    }
    return {**places, **{field: info[field] for field in _CONSUMER_FIELDS}}
