"""Publishing into the stream: many messages in flight, each answered, one at a time in a chain.

A chain is a list of messages whose order matters; the next one is sent only when the one before
it has been stored. So nothing that is lost, refused or answered late can put two messages of one
chain in the wrong order, and different chains do not wait for each other.

Acks come back on one wildcard inbox and find their message by the last token of their subject.
"Not sent" (there was no connection) and "unknown" (sent, no answer) are told apart: the second
may be in the stream, and must be tried again with the same id.

A subject that no stream takes is told by the server, unless somebody subscribes to it: with a
subscriber to `>` there is silence. So what has no answer for long makes the stream be asked.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

from nats.errors import Error as NatsError
from pydantic_core import from_json

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.errors import BridgeError
from jetstream_bridge.core.limits import leave
from jetstream_bridge.core.subjects import covered
from jetstream_bridge.events.headers import parse_block
from jetstream_bridge.nats.client import GuardedClient
from jetstream_bridge.nats.connection import Connection, ConnectionEvent
from jetstream_bridge.nats.management import StreamApi
from jetstream_bridge.nats.outgoing import (
    Outcome,
    Outgoing,
    describe,
    flaw_of,
    read_error,
    unsent,
)
from jetstream_bridge.nats.publish_call import PublishCall

logger = logging.getLogger(__name__)

WINDOW = 256  # messages in flight at once; more brings nothing, even with 5 ms to the server
WINDOW_BYTES = 8 * 1024 * 1024  # bodies in flight at once; the last one may go beyond
DOUBT_AFTER = 1.0  # seconds without an answer after which the stream is asked about the subject
DEFAULT_MAX_PAYLOAD = 1024 * 1024  # nats-server's own default, until it has told us its limit


class AckPublisher:
    """Publishes messages and collects the stream's acknowledgements.

    `stream` is the only one whose acknowledgement counts. `timeout` is the time, in seconds,
    that one message has for its answer.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        stream: str,
        timeout: float = 5.0,
        window: int = WINDOW,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._timeout = timeout
        self._doubt_after = min(DOUBT_AFTER, timeout / 3)
        self._api = StreamApi(connection, limit=timeout / 3)
        self._window = window
        self._tokens = itertools.count()
        # In the order of sending, so the first is always the first to run out of time.
        self._waiting: dict[bytes, Outgoing] = {}
        self._bytes_in_flight = 0
        self._crowded_out: set[PublishCall] = set()  # waiting for room in the window
        self._timer: asyncio.TimerHandle | None = None
        self._client: GuardedClient | None = None
        self._prefix = ""
        self._subscribing = asyncio.Lock()
        connection.add_listener(self._on_connection)

    def close(self) -> None:
        """Stop listening to the connection; what is in flight becomes unknown."""
        self._connection.remove_listener(self._on_connection)
        self._give_up("the bridge is closing")
        if self._timer is not None:
            self._timer.cancel()

    @property
    def max_payload(self) -> int:
        """Bytes that a message, headers included, may have."""
        client = self._connection.client
        return client.max_payload if client is not None else DEFAULT_MAX_PAYLOAD

    async def publish(
        self,
        chains: Iterable[Sequence[Outgoing]],
        *,
        budget: float,
        turns: float | None = None,
    ) -> None:
        """Send every chain; return when each message sent has its outcome.

        Sends nothing more after an outage, or when `budget` seconds have passed, and only the
        first message of a chain after `turns` seconds; the last answers may take the publisher's
        timeout longer.
        """
        now = loop_time()
        turns_until = now + (budget if turns is None else turns)
        call = PublishCall(chains, until=now + budget, turns_until=turns_until)
        doubt = asyncio.create_task(self._doubt(call), name="doubtful publishes")
        try:
            await self._send(call)
        finally:
            leave(doubt)

    async def _send(self, call: PublishCall) -> None:
        while call.ready or call.in_flight:
            call.changed.clear()
            if call.ready and not call.halted and self._has_room():
                await self._send_ready(call)
                continue
            if call.halted and not call.in_flight:
                return
            await self._wait(call)

    async def publish_one(self, message: Outgoing) -> Outgoing:
        """Send one message; return it with its outcome."""
        await self.publish([[message]], budget=self._timeout)
        return message

    def _has_room(self) -> bool:
        """Whether another message may be in flight; one may always."""
        return not self._waiting or (
            len(self._waiting) < self._window and self._bytes_in_flight < WINDOW_BYTES
        )

    async def _send_ready(self, call: PublishCall) -> None:
        """Send what there is room for: all of it is written to the socket at once."""
        now = loop_time()
        if now > call.until:  # also of a process that was stopped for long
            call.halted = True
            return
        client = self._connection.client
        try:
            if client is not None and client is not self._client:
                await self._subscribe(client)
            self._buffer(call, client, now)
            if client is not None:
                await client.flush_sent()
        except Exception as error:  # of the connection: what is in flight gets its outcome
            logger.debug("a NATS client could not send", exc_info=error)
            call.lost(now, unsent(error, connected=False), describe(error))

    def _buffer(self, call: PublishCall, client: GuardedClient | None, now: float) -> None:
        while call.ready and not call.halted and self._has_room():
            message = call.next(now)
            if message is None:
                break
            if client is None:
                message.error = "not connected to NATS"
                call.settle(message, Outcome.NOT_SENT)
            elif flaw := flaw_of(message, client.max_payload):
                message.error = flaw
                call.settle(message, Outcome.REFUSED)
            else:
                self._buffer_one(call, client, message, now)
        self._watch_deadlines()

    def _buffer_one(
        self, call: PublishCall, client: GuardedClient, message: Outgoing, now: float
    ) -> None:
        token = str(next(self._tokens))
        try:
            client.send(message.subject, self._prefix + token, message.block or b"", message.body)
        except Exception as error:  # whatever it is, it is this message's or the connection's
            message.error = describe(error)
            call.settle(message, unsent(error, connected=client.is_connected))
            return
        message.call, message.sent_at = call, now
        call.in_flight += 1
        self._bytes_in_flight += len(message.body)
        self._waiting[token.encode()] = message

    async def _subscribe(self, client: GuardedClient) -> None:
        async with self._subscribing:
            if client is self._client:
                return
            prefix = client.new_inbox() + "."
            await client.subscribe_reader(prefix + "*", self._on_ack)
            self._prefix, self._client = prefix, client

    async def _wait(self, call: PublishCall) -> None:
        """Wait until something of `call` changes, or the window has room for it.

        Has no limit of its own: whatever is in flight gets its outcome by its deadline.
        """
        if not call.in_flight:
            self._crowded_out.add(call)
        await call.changed.wait()

    def _watch_deadlines(self) -> None:
        """One timer, for the message that runs out of time first."""
        if self._timer is None and self._waiting:
            deadline = next(iter(self._waiting.values())).sent_at + self._timeout
            delay = max(0.0, deadline - loop_time())
            self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        self._timer = None
        sent_until = loop_time() - self._timeout
        waiting = self._waiting.items()
        for token, message in list(takewhile(lambda item: item[1].sent_at <= sent_until, waiting)):
            refused = self._connection.denial(message.subject)
            message.error = refused or f"no acknowledgement within {self._timeout:g} s"
            self._settle(token, Outcome.UNKNOWN)
        self._watch_deadlines()

    async def _doubt(self, call: PublishCall) -> None:
        """Find out what of `call` waits in vain, since the stream does not take its subject."""
        while True:
            await asyncio.sleep(self._doubt_after)
            homeless = await self._not_taken(self._overdue(call))
            for token, message in list(self._waiting.items()):
                if message.call is call and message.subject in homeless:
                    message.error = f"the stream {self._stream} does not take {message.subject}"
                    self._settle(token, Outcome.UNROUTED)

    def _overdue(self, call: PublishCall) -> set[str]:
        """The subjects of `call` on which an answer is missed."""
        latest = loop_time() - self._doubt_after
        return {
            message.subject
            for message in self._waiting.values()
            if message.call is call and message.sent_at <= latest
        }

    async def _not_taken(self, subjects: set[str]) -> set[str]:
        """Return those of `subjects` that the stream is known not to take."""
        if not subjects:
            return subjects
        try:
            stream = await self._api.stream(self._stream)
        except (BridgeError, NatsError, OSError, TimeoutError):
            return set()  # JetStream is away, and nobody can tell
        taken = (stream or {}).get("subjects") or []
        return {subject for subject in subjects if not covered(taken, subject)}

    def _settle(self, token: bytes, outcome: Outcome) -> None:
        message = self._waiting.pop(token)
        self._bytes_in_flight -= len(message.body)
        message.settled_at = now = loop_time()
        message.took = now - message.sent_at
        call, message.call = message.call, None
        if call is not None:
            call.in_flight -= 1
            call.settle(message, outcome)
        if self._crowded_out:
            for other in self._crowded_out:
                other.changed.set()
            self._crowded_out.clear()

    def _on_connection(self, event: ConnectionEvent) -> None:
        if event is not ConnectionEvent.CONNECTED:
            self._give_up("the connection was lost before the acknowledgement")

    def _give_up(self, reason: str) -> None:
        """The answers to what is in flight will not come any more."""
        for token, message in list(self._waiting.items()):
            message.error = reason
            self._settle(token, Outcome.UNKNOWN)

    def _on_ack(self, subject: bytes, _: bytes, data: bytes, headers: bytes | None) -> None:
        token = subject[len(self._prefix) :]
        message = self._waiting.get(token)
        if message is not None:  # else it was given up, and its retry will be a duplicate
            self._settle(token, self._read(message, data, headers))

    def _read(self, message: Outgoing, data: bytes, headers: bytes | None) -> Outcome:
        if headers and parse_block(headers).get("Status") == "503":
            message.error = f"no stream listens on {message.subject}"
            return Outcome.UNROUTED
        try:
            answer = from_json(data)
            error = answer.get("error")
            if error is not None:
                return read_error(message, error)
            return self._read_ack(message, answer)
        except (ValueError, AttributeError, TypeError):
            message.error = f"the answer on {message.subject} is no acknowledgement"
            return Outcome.REFUSED

    def _read_ack(self, message: Outgoing, answer: Mapping[str, object]) -> Outcome:
        stream, seq = answer.get("stream"), answer.get("seq")
        if stream != self._stream or not isinstance(seq, int):
            message.error = (
                f"stored by stream {stream!r} and not by {self._stream!r}, "
                f"which should own {message.subject}"
            )
            return Outcome.REFUSED
        message.seq = seq
        message.duplicate = answer.get("duplicate") is True
        return Outcome.STORED
