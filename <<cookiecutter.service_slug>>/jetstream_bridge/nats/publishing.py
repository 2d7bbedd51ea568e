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
import json
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.errors import BridgeError
from jetstream_bridge.core.limits import leave
from jetstream_bridge.core.subjects import covered
from jetstream_bridge.nats.connection import Connection, ConnectionEvent
from jetstream_bridge.nats.management import StreamApi
from jetstream_bridge.nats.outgoing import OUTAGES, Outcome, Outgoing, _flaw, _read_error, _unsent

logger = logging.getLogger(__name__)

WINDOW = 256  # messages in flight at once; more brings nothing, even with 5 ms to the server
WINDOW_BYTES = 8 * 1024 * 1024  # bodies in flight at once; the last one may go beyond
DOUBT_AFTER = 1.0  # seconds without an answer after which the stream is asked about the subject
DEFAULT_MAX_PAYLOAD = 1024 * 1024  # nats-server's own default, until it has told us its limit


class _Batch:
    """One call's messages: what may be sent next, and what is still unanswered."""

    __slots__ = ("changed", "halted", "in_flight", "ready", "turns_until", "until")

    def __init__(
        self, chains: Iterable[Sequence[Outgoing]], *, until: float, turns_until: float
    ) -> None:
        self.until = until  # after this moment nothing more is sent
        self.turns_until = turns_until  # and after this one only what is first in its chain
        self.ready: deque[tuple[Sequence[Outgoing], int]] = deque(
            (chain, 0) for chain in chains if chain
        )
        self.in_flight = 0
        self.halted = False
        self.changed = asyncio.Event()

    def settle(self, chain: Sequence[Outgoing], index: int, outcome: Outcome) -> None:
        chain[index].outcome = outcome
        if outcome is Outcome.STORED:
            if index + 1 < len(chain):
                self.ready.append((chain, index + 1))
        elif outcome in OUTAGES:
            self.halted = True
        self.changed.set()


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
        self._waiting: dict[str, tuple[_Batch, Sequence[Outgoing], int, float]] = {}
        self._bytes_in_flight = 0
        self._crowded_out: set[_Batch] = set()  # waiting for room in the window
        self._timer: asyncio.TimerHandle | None = None
        self._client: Client | None = None
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
        batch = _Batch(chains, until=now + budget, turns_until=turns_until)
        doubt = asyncio.create_task(self._doubt(batch), name="doubtful publishes")
        try:
            await self._send(batch)
        finally:
            leave(doubt)

    async def _send(self, batch: _Batch) -> None:
        while batch.ready or batch.in_flight:
            batch.changed.clear()
            if batch.ready and not batch.halted and self._has_room():
                now = loop_time()
                batch.halted = now > batch.until  # also of a process that was stopped for long
                if batch.ready[0][1] and now > batch.turns_until:
                    batch.ready.popleft()
                elif not batch.halted:
                    await self._send_next(batch)
                continue
            if batch.halted and not batch.in_flight:
                return
            await self._wait(batch)

    async def publish_one(self, message: Outgoing) -> Outgoing:
        """Send one message; return it with its outcome."""
        await self.publish([[message]], budget=self._timeout)
        return message

    def _has_room(self) -> bool:
        """Whether another message may be in flight; one may always."""
        return not self._waiting or (
            len(self._waiting) < self._window and self._bytes_in_flight < WINDOW_BYTES
        )

    async def _send_next(self, batch: _Batch) -> None:
        chain, index = batch.ready.popleft()
        message = chain[index]
        client = self._connection.client
        if client is None:
            message.error = "not connected to NATS"
            batch.settle(chain, index, Outcome.NOT_SENT)
            return
        flaw = message.flaw or _flaw(message, client.max_payload)
        if flaw is not None:
            message.error = flaw
            batch.settle(chain, index, Outcome.REFUSED)
            return
        token = str(next(self._tokens))
        try:
            if client is not self._client:
                await self._subscribe(client)
            self._waiting[token] = (batch, chain, index, loop_time() + self._timeout)
            batch.in_flight += 1
            self._bytes_in_flight += len(message.body)
            self._watch_deadlines()
            await client.publish(
                message.subject, message.body, reply=self._prefix + token, headers=message.headers
            )
        except Exception as error:  # whatever it is, it is this message's or the connection's
            message.error = f"could not be sent: {error or type(error).__name__}"
            outcome = _unsent(error, connected=client.is_connected)
            if token in self._waiting:
                self._settle(token, outcome)
            elif message.outcome is None:
                batch.settle(chain, index, outcome)

    async def _subscribe(self, client: Client) -> None:
        async with self._subscribing:
            if client is self._client:
                return
            self._prefix = client.new_inbox() + "."
            await client.subscribe(self._prefix + "*", cb=self._on_ack)
            self._client = client

    async def _wait(self, batch: _Batch) -> None:
        """Wait until something of `batch` changes, or the window has room for it.

        Has no limit of its own: whatever is in flight gets its outcome by its deadline.
        """
        if not batch.in_flight:
            self._crowded_out.add(batch)
        await batch.changed.wait()

    def _watch_deadlines(self) -> None:
        """One timer, for the message that runs out of time first."""
        if self._timer is None and self._waiting:
            deadline = next(iter(self._waiting.values()))[3]
            delay = max(0.0, deadline - loop_time())
            self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = loop_time()
        late = list(itertools.takewhile(lambda item: item[1][3] <= now, self._waiting.items()))
        for token, (_, chain, index, _) in late:
            refused = self._connection.denial(chain[index].subject)
            chain[index].error = refused or f"no acknowledgement within {self._timeout:g} s"
            self._settle(token, Outcome.UNKNOWN)
        self._watch_deadlines()

    async def _doubt(self, batch: _Batch) -> None:
        """Find out what of `batch` waits in vain, since the stream does not take its subject."""
        while True:
            await asyncio.sleep(self._doubt_after)
            homeless = await self._not_taken(self._overdue(batch))
            for token, (owner, chain, index, _) in list(self._waiting.items()):
                if owner is batch and chain[index].subject in homeless:
                    chain[
                        index
                    ].error = f"the stream {self._stream} does not take {chain[index].subject}"
                    self._settle(token, Outcome.UNROUTED)

    def _overdue(self, batch: _Batch) -> set[str]:
        """The subjects of `batch` on which an answer is missed."""
        latest = loop_time() + self._timeout - self._doubt_after
        return {
            chain[index].subject
            for owner, chain, index, deadline in self._waiting.values()
            if owner is batch and deadline <= latest
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

    def _settle(self, token: str, outcome: Outcome) -> None:
        batch, chain, index, deadline = self._waiting.pop(token)
        message = chain[index]
        self._bytes_in_flight -= len(message.body)
        message.settled_at = now = loop_time()
        message.took = now - deadline + self._timeout
        batch.in_flight -= 1
        batch.settle(chain, index, outcome)
        for other in self._crowded_out:
            other.changed.set()
        self._crowded_out.clear()

    def _on_connection(self, event: ConnectionEvent) -> None:
        if event is not ConnectionEvent.CONNECTED:
            self._give_up("the connection was lost before the acknowledgement")

    def _give_up(self, reason: str) -> None:
        """The answers to what is in flight will not come any more."""
        for token, (_, chain, index, _) in list(self._waiting.items()):
            chain[index].error = reason
            self._settle(token, Outcome.UNKNOWN)

    async def _on_ack(self, msg: Msg) -> None:
        token = msg.subject[len(self._prefix) :]
        entry = self._waiting.get(token)
        if entry is not None:  # else it was given up, and its retry will be a duplicate
            _, chain, index, _ = entry
            self._settle(token, self._read(chain[index], msg))

    def _read(self, message: Outgoing, msg: Msg) -> Outcome:
        if msg.headers is not None and msg.headers.get("Status") == "503":
            message.error = f"no stream listens on {message.subject}"
            return Outcome.UNROUTED
        try:
            answer = json.loads(msg.data)
            error = answer.get("error")
            if error is not None:
                return _read_error(message, error)
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
