"""A NATS server with JetStream, in memory: what the bridge asks of one, as nats-server answers it.

    async with Bridge(config, sessions, relay=True, make_client=server.client): ...

It keeps what it stores while it is stopped, as nats-server does. Its time is the event loop's, so
a `VirtualClock` moves it. What it does not imitate raises `NotSimulated`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jetstream_bridge.core.durations import seconds
from jetstream_bridge.testing.api import PREFIX, Api
from jetstream_bridge.testing.client import MockClient
from jetstream_bridge.testing.consumer import MockConsumer, read_answer
from jetstream_bridge.testing.errors import ApiFault, NotSimulated
from jetstream_bridge.testing.faults import Faults, Kind
from jetstream_bridge.testing.peer import Peer
from jetstream_bridge.testing.stream import MockStream, Stored
from jetstream_bridge.testing.waiting_pulls import check_pull
from jetstream_bridge.testing.wire import header_block, status

_NEXT = f"{PREFIX}CONSUMER.MSG.NEXT."
_ACK = "$JS.ACK."
_MAX_PAYLOAD = 1024 * 1024
_NOT_IMITATED = ("$JS.EVENT.", "$JS.API.DIRECT.", "$SYS.", "$KV.", "$O.", "$JS.FC.")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a consumer said about one delivery: `+ACK`, `-NAK` (with a delay) or `+TERM`."""

    stream: str
    consumer: str
    seq: int
    delivery: int
    word: str
    delay: float


class MockServer:
    """One server. `url` is what clients are told to connect to; nothing listens there."""

    def __init__(self, *, max_payload: int = _MAX_PAYLOAD, version: str = "2.15.1") -> None:
        self.url = "nats://mock.invalid:4222"
        self.version = version
        self.max_payload = max_payload
        self.faults = Faults()
        self.streams: dict[str, MockStream] = {}
        self.stored: list[Stored] = []  # everything that any stream ever took, duplicates apart
        self.answers: list[Answer] = []  # what consumers said about deliveries, `+WPI` apart
        self.api_errors = 0
        self.running = True
        self._api = Api(self)
        self._peers: list[Peer] = []
        self._ids = itertools.count(1)
        self._wall = time.time_ns()
        self._began: float | None = None

    # --- what a test asks for

    def client(self, *, tls_demanded: bool = False) -> MockClient:
        """A client of this server, not connected yet; what a bridge takes as `make_client`."""
        return MockClient(self, tls_demanded=tls_demanded)

    async def connect(self, **options: Any) -> MockClient:
        """A connected client; `options` are those of nats-py."""
        client = self.client()
        await client.connect(self.url, **{"max_reconnect_attempts": -1, **options})
        return client

    def stop(self) -> None:
        """Be away: every connection breaks, and none is let in until `start`."""
        self.running = False
        for stream in self.streams.values():
            stream.restart()
        for peer in tuple(self._peers):
            peer.close()

    kill = terminate = stop

    def start(self) -> None:
        self.running = True

    def restart(self) -> None:
        self.stop()
        self.start()

    def disconnect(self, duration: str) -> None:
        """Be away for a while: `disconnect("5s")` returns at once."""
        self.stop()
        asyncio.get_running_loop().call_later(seconds(duration), self.start)

    def drop_stream(self, name: str) -> None:
        """Delete a stream, as an administrator would."""
        stream = self.streams.pop(name)
        for consumer in stream.consumers.values():
            consumer.close("Consumer Deleted")

    def drop_consumer(self, stream: str, name: str) -> None:
        """Delete a consumer, as an administrator would."""
        self.streams[stream].consumers.pop(name).close("Consumer Deleted")

    def fill(self, stream: str, *, full: bool = True) -> None:
        """Let a stream have no room, until `full=False`: it refuses with error 10077."""
        self.streams[stream].full = full

    def put(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> int:
        """Store a message as another program would; return its sequence."""
        before = len(self.stored)
        self.publish(subject, "", header_block(headers or {}), body)
        if len(self.stored) == before:
            raise LookupError(f"no stream stored the message on {subject}; does one listen there?")
        return self.stored[-1].seq

    # --- time

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def wall_ns(self) -> int:
        """Nanoseconds since 1970, moving with the loop's clock."""
        now = self.now()
        if self._began is None:
            self._began = now
        return self._wall + round((now - self._began) * 1_000_000_000)

    # --- connections

    def accept(self) -> Peer:
        """Take a new connection; raise `ConnectionRefusedError` while the server is away."""
        if not self.running:
            raise ConnectionRefusedError(f"the mock server at {self.url} is stopped")
        peer = Peer(self, next(self._ids))
        self._peers.append(peer)
        peer.greet(json.dumps(self._greeting(peer.number)).encode())
        return peer

    def forget(self, peer: Peer) -> None:
        if peer in self._peers:
            self._peers.remove(peer)

    def _greeting(self, number: int) -> dict[str, object]:
        return {
            "server_id": "MOCK",
            "server_name": "mock",
            "version": self.version,
            "proto": 1,
            "headers": True,
            "jetstream": True,
            "max_payload": self.max_payload,
            "client_id": number,
        }

    # --- messages

    def check_simulated(self, subject: str, payload: bytes) -> None:
        """Raise `NotSimulated` to whoever asks for what this server does not do."""
        if subject.startswith(_NOT_IMITATED):
            raise NotSimulated(f"a message on {subject}")
        if subject.startswith(_NEXT):
            check_pull(payload)
        elif subject.startswith(PREFIX):
            if not self._api.knows(subject):
                raise NotSimulated(f"a request on {subject}")
            self._api.rehearse(subject, payload)

    def check_subscription(self, subject: str, queue: str) -> None:
        if queue:
            raise NotSimulated(f"a subscription to {subject} in the queue group {queue}")
        if subject.startswith(_NOT_IMITATED):
            raise NotSimulated(f"a subscription to {subject}")

    def publish(self, subject: str, reply: str, headers: bytes, data: bytes) -> bool:
        """Hand a message to whom it concerns; say whether anybody took it."""
        if subject.startswith(PREFIX):
            return self._ask(subject, reply, data)
        if subject.startswith(_ACK):
            return self._answered(subject, reply, data)
        taken = self.deliver(subject, headers, data, reply=reply)
        for stream in [s for s in self.streams.values() if s.takes(subject)]:
            taken = True
            self._store(stream, subject, reply, headers, data)
        return taken

    def deliver(
        self, inbox: str, headers: bytes, data: bytes, *, subject: str = "", reply: str = ""
    ) -> bool:
        """Send to who is subscribed to `inbox`; the message may bear another `subject`."""
        shown = subject or inbox
        heard = sum(peer.send_to(inbox, shown, reply, headers, data) for peer in self._peers)
        return heard > 0

    def no_responders(self, subject: str, reply: str) -> None:
        """Tell the sender of a request that nobody is there to answer it."""
        self.deliver(reply, status(503, Nats_Subject=subject), b"")

    def _ask(self, subject: str, reply: str, data: bytes) -> bool:
        if self.faults.take(Kind.NO_API, subject) is not None:
            return True
        if subject.startswith(_NEXT):
            consumer = self._consumer(subject.removeprefix(_NEXT).split("."))
            if consumer is None:
                return False
            consumer.ask(reply, data)
            return True
        answer = self._api.answer(subject, data)
        if reply:
            self.deliver(reply, b"", answer)
        return True

    def _answered(self, subject: str, reply: str, data: bytes) -> bool:
        tokens = subject.removeprefix(_ACK).split(".")
        consumer = self._consumer(tokens[:2])
        if consumer is None:
            return False
        if self.faults.take(Kind.LOSE_ANSWER, subject) is None:
            self._note_answer(tokens, data)
            counts = consumer.answer(int(tokens[3]), int(tokens[4]), data)
            if reply and counts:
                self.deliver(reply, b"", b"")
        return True

    def _note_answer(self, tokens: list[str], data: bytes) -> None:
        word, delay = read_answer(data)
        if word != "+WPI":
            seq, delivery = int(tokens[3]), int(tokens[2])
            self.answers.append(Answer(tokens[0], tokens[1], seq, delivery, word, delay))

    def _consumer(self, names: list[str]) -> MockConsumer | None:
        stream = self.streams.get(names[0])
        return stream.consumers.get(names[1]) if stream is not None and len(names) > 1 else None

    def _store(
        self, stream: MockStream, subject: str, reply: str, headers: bytes, data: bytes
    ) -> None:
        if self.faults.take(Kind.LOSE_PUBLISH, subject) is not None:
            return
        refusal = self.faults.take(Kind.REFUSE_PUBLISH, subject)
        try:
            if refusal is not None and refusal.error is not None:
                raise refusal.error
            ack = stream.store(subject, headers, data)
            answer: dict[str, object] = {"stream": stream.name, "seq": ack.seq}
            if ack.duplicate:
                answer["duplicate"] = True
            elif (stored := stream.get(ack.seq)) is not None:
                self.stored.append(stored)
        except ApiFault as fault:
            answer = {"error": fault.as_json(), "stream": stream.name, "seq": 0}
        self._acknowledge(stream, subject, reply, json.dumps(answer).encode())
        if "error" not in answer and "duplicate" not in answer:
            for consumer in tuple(stream.consumers.values()):
                if consumer.wants(subject):
                    consumer.work()

    def _acknowledge(self, stream: MockStream, subject: str, reply: str, answer: bytes) -> None:
        if not reply or stream.config.get("no_ack"):
            return
        if self.faults.take(Kind.LOSE_ACK, subject) is not None:
            return
        late = self.faults.take(Kind.DELAY_ACK, subject)
        if late is None:
            self.deliver(reply, b"", answer)
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(late.delay, lambda: self.deliver(reply, b"", answer))
