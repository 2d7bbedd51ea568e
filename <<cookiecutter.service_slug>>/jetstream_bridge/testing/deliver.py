"""Handing an event to a running worker, the whole way, and learning what became of it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge.bridge import Bridge
from jetstream_bridge.core.errors import BridgeError
from jetstream_bridge.events.dead_letter import one_line
from jetstream_bridge.events.received_envelope import message_key, parse
from jetstream_bridge.inbox.tables import InboxEvent
from jetstream_bridge.testing.clock import VirtualClock
from jetstream_bridge.testing.events import body_of, make_event
from jetstream_bridge.testing.real import RealClock, RealServer
from jetstream_bridge.testing.server import Answer, MockServer
from jetstream_bridge.testing.stream import Stored
from jetstream_bridge.testing.wire import header_values

_LIMIT = 60.0  # seconds on the test's clock
_PAUSE = 0.05


class Outcome(Enum):
    """What became of a delivery."""

    PROCESSED = "processed"  # committed, and acknowledged
    DUPLICATE = "duplicate"  # known already, and acknowledged
    IGNORED = "ignored"  # no handler, and acknowledged
    RETRIED = "retried"  # given back, to be delivered again after `delay` seconds
    DEAD_LETTERED = "dead_lettered"  # its dead letter is in the stream
    PARKED = "parked"  # whole in the inbox table, and terminated


@dataclass(frozen=True, slots=True)
class Delivered:
    """One delivery's end."""

    outcome: Outcome
    seq: int
    deliveries: int
    delay: float = 0.0
    error: str | None = None  # with its class and its line, as inbox or dead letter keep it
    reason: str | None = None  # of a dead letter

    @property
    def processed(self) -> bool:
        return self.outcome is Outcome.PROCESSED


class Deliver:
    """`await deliver("customer.created", {...})`: through stream, inbox, handler and ack."""

    def __init__(
        self,
        bridge: Bridge,
        server: MockServer | RealServer,
        clock: VirtualClock | RealClock,
        sessions: async_sessionmaker[AsyncSession],
    ) -> None:
        self._bridge = bridge
        self._server = server
        self._clock = clock
        self._sessions = sessions

    async def __call__(
        self,
        event: str | bytes | Mapping[str, Any],
        payload: Mapping[str, Any] | BaseModel | None = None,
        *,
        source: str | None = None,
        headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> Delivered:
        """Deliver an event once; `await deliver.again(result)` waits for its next delivery.

        `event` is a type such as `"customer.created"`, whose envelope is made of `payload` and
        `fields`; or a whole envelope; or bytes that may be none.
        """
        sender = source or self._bridge.config.destination_app
        if isinstance(event, str):
            event = self.body(event, payload, producer=fields.pop("producer", sender), **fields)
        await self.until_ready()
        subject = self._bridge.config.names.subscribe(sender)
        stored = self._server.put(subject, body_of(event), headers or {})
        seq = await stored if isinstance(stored, Awaitable) else stored
        return await self._end_of(seq, source, 1)

    def body(
        self, type_: str, payload: Mapping[str, Any] | BaseModel | None = None, **fields: Any
    ) -> bytes:
        """An event of the peer's as it is on the wire."""
        sender = self._bridge.config.destination_app
        return body_of(make_event(type_, payload, **{"producer": sender, **fields}))

    async def until_ready(self) -> None:
        """Let time pass until the worker pulls."""
        await self._until(self._ready, "the worker to be ready")

    async def again(self, last: Delivered, *, source: str | None = None) -> Delivered:
        """Let time pass until the event is delivered again, and return how that ended."""
        return await self._end_of(last.seq, source, last.deliveries + 1)

    async def _end_of(self, seq: int, source: str | None, delivery: int) -> Delivered:
        consumer = self._bridge.durable(source)
        found: list[Answer] = []

        def ended() -> bool:
            found[:] = [
                a
                for a in self._server.answers
                if (a.consumer, a.seq, a.delivery) == (consumer, seq, delivery)
            ]
            return bool(found)

        await self._until(ended, f"delivery {delivery} of message {seq} to {consumer} to end")
        await self._clock.settle()
        return await self._judge(found[0])

    async def _judge(self, answer: Answer) -> Delivered:
        row = await self._row(answer)
        error = row.last_error if row is not None else None
        letter = self._letter(self._sent(answer).place)
        if answer.word == "-NAK":
            kind = Outcome.RETRIED
        elif answer.word == "+TERM":
            kind = Outcome.PARKED
        elif letter is not None:
            kind = Outcome.DEAD_LETTERED
        elif row is None:
            inbox = self._bridge.config.use_inbox
            kind = Outcome.IGNORED if inbox else Outcome.PROCESSED
        else:
            kind = Outcome.PROCESSED if row.stream_seq == answer.seq else Outcome.DUPLICATE
        reason = letter.get("x-dlq-reason") if letter is not None else None
        if error is None and letter is not None:  # without the inbox
            context = json.loads(letter["x-dlq-context"])
            names = ("error_class", "error_message", "raised_at")
            error = one_line(*(context.get(name, "") for name in names))
        return Delivered(kind, answer.seq, answer.delivery, answer.delay, error, reason)

    async def _row(self, answer: Answer) -> InboxEvent | None:
        sent = self._sent(answer)
        try:
            envelope = parse(sent.data)
        except BridgeError:
            envelope = None
        key = message_key(header_values(sent.headers), envelope, sent.place)
        async with self._sessions() as session:
            query = select(InboxEvent).where(
                InboxEvent.consumer == answer.consumer, InboxEvent.event_id == key
            )
            return (await session.exec(query)).first()

    def _sent(self, answer: Answer) -> Stored:
        return next(m for m in reversed(self._server.stored) if m.seq == answer.seq)

    def _letter(self, place: str) -> dict[str, str] | None:
        dead = self._bridge.config.names.dead_letter
        known = f"dlq:{self._bridge.config.stream}:{place}"
        for sent in reversed(self._server.stored):
            headers = header_values(sent.headers)
            if sent.subject == dead and headers.get("Nats-Msg-Id") == known:
                return headers
        return None

    def _ready(self) -> bool:
        check = self._bridge.checks().get("consumers")
        if check is None:
            raise RuntimeError("this bridge runs no consumers; give it some to deliver to")
        return check.ok

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        waited = 0.0
        while not condition():
            if waited >= _LIMIT:
                problems = [
                    f"{n}: {c.detail}" for n, c in self._bridge.checks().items() if not c.ok
                ]
                raise AssertionError(f"waited {_LIMIT:g} s for {what}; {'; '.join(problems)}")
            await self._clock.advance(_PAUSE)
            waited += _PAUSE
