"""What `pytest --real` puts in the mock's place: nats-server, PostgreSQL and the world's clock.

`RealServer` shows what the stream stored and what consumers said about deliveries as the mock
does, so that `deliver` and `assert_published` work on both. It sees them as a client of the same
server: every publish, and every acknowledgement on `$JS.ACK.>`. Faults by name are the mock's.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import NoReturn

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import PubAck
from nats.js.errors import NotFoundError

from jetstream_bridge.core.durations import seconds
from jetstream_bridge.nats.client import GuardedClient
from jetstream_bridge.testing.barrier import barrier
from jetstream_bridge.testing.consumer import read_answer
from jetstream_bridge.testing.server import Answer
from jetstream_bridge.testing.servers import NatsServer
from jetstream_bridge.testing.stream import Stored
from jetstream_bridge.testing.wire import header_block

_TOKENS = 9  # of the subject of an acknowledgement without domain and account
_CATCH_UP = 10.0  # seconds for JetStream to answer after a start
_SETTLE = 0.05  # seconds in which what was written can be seen by a client beside


class RealClock:
    """The world's clock, with the mock's interface: whoever lets time pass waits for it."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    async def advance(self, duration: str | float) -> None:
        """Wait for `duration` ("30s", "500ms", or seconds)."""
        await asyncio.sleep(seconds(duration) if isinstance(duration, str) else duration)

    async def settle(self) -> None:
        """Wait until what was just done can be seen."""
        await asyncio.sleep(_SETTLE)

    @property
    def elapsed(self) -> float:
        """Seconds since the test began."""
        return time.monotonic() - self._began


class RealServer:
    """A nats-server of the test's own, watched by a client of its own."""

    def __init__(self, server: NatsServer, watcher: Client, subject: str) -> None:
        """`subject` is what the service publishes on; `watcher` is to be connected later."""
        self.url = server.url
        self.client = GuardedClient
        self.stored: list[Stored] = []  # every message, those that the stream dropped apart
        self.answers: list[Answer] = []  # what consumers said about deliveries
        self._server = server
        self._watcher = watcher
        self._subject = subject
        self._ids: set[str] = set()

    # --- faults

    @property
    def faults(self) -> NoReturn:
        """Only the mock has faults by name."""
        raise RuntimeError("faults by name are the mock's; mark this test with @pytest.mark.mock")

    def stop(self) -> None:
        """Be away: every connection breaks, and none is let in until `start`."""
        self._server.terminate()

    def start(self) -> None:
        self._server.start()

    def restart(self) -> None:
        self._server.restart()

    # --- what was stored, and what was said

    async def put(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> int:
        """Store a message as another program would; return its sequence."""
        ack: PubAck = await self._watcher.jetstream().publish(
            subject, body, headers=dict(headers or {})
        )
        self.stored.append(Stored(ack.seq, subject, header_block(headers or {}), body, 0.0, 0))
        return ack.seq

    async def heard(self, message: Msg) -> None:
        """Note a publish of the service, once for each message id as the stream does."""
        if message.reply:
            self._note(message.subject, message.headers or {}, message.data)

    def _note(self, subject: str, headers: Mapping[str, str], data: bytes) -> None:
        key = headers.get("Nats-Msg-Id", "")
        if key not in self._ids:
            self._ids.update({key} - {""})
            self.stored.append(Stored(0, subject, header_block(headers), data, 0.0, 0))

    async def catch_up(self) -> None:
        """Note what the service published before the watcher was connected again."""
        jetstream = self._watcher.jetstream(timeout=1.0)
        until = time.monotonic() + _CATCH_UP
        while time.monotonic() < until:
            with contextlib.suppress(NatsError):  # JetStream begins after the server
                for stream in await jetstream.streams_info():
                    await self._read(jetstream, str(stream.config.name))
                return
            await asyncio.sleep(_SETTLE)

    async def _read(self, jetstream: JetStreamContext, stream: str) -> None:
        sequence = 1
        with contextlib.suppress(NotFoundError):
            while True:
                found = await jetstream.get_msg(
                    stream, seq=sequence, subject=self._subject, next=True
                )
                sequence = (found.seq or 0) + 1
                headers = found.headers or {}
                if headers.get("Nats-Msg-Id"):  # without one, what was heard could not be told
                    self._note(found.subject or "", headers, found.data or b"")

    async def answered(self, message: Msg) -> None:
        """Note what a consumer said: `$JS.ACK.<stream>.<consumer>.<tries>.<seq>.<>.<ns>.<>`."""
        word, delay = read_answer(message.data)
        if word == "+WPI":
            return
        tokens = message.subject.split(".")
        of_account = len(tokens) > _TOKENS  # domain and account stand before the stream
        stream, consumer, tries, seq, _, ns = tokens[4 if of_account else 2 :][:6]
        self.stored = [
            replace(one, ns=int(ns)) if one.seq == int(seq) else one for one in self.stored
        ]
        self.answers.append(Answer(stream, consumer, int(seq), int(tries), word, delay))


@asynccontextmanager
async def real_server(server: NatsServer, *, env: str, app: str) -> AsyncIterator[RealServer]:
    """Yield `server`, watched for what the service called `app` publishes and acknowledges."""
    watcher, subject = Client(), f"{env}.{app}.sync.*"
    watched = RealServer(server, watcher, subject)
    await watcher.connect(
        server.url,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.1,  # type: ignore[arg-type]  # seconds; it takes a fraction, too
        reconnected_cb=watched.catch_up,
    )
    try:
        await watcher.subscribe(subject, cb=watched.heard)
        await watcher.subscribe("$JS.ACK.>", cb=watched.answered)
        await barrier(watcher)
        yield watched
    finally:
        await watcher.close()
