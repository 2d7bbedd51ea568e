"""One message in hand: what was read of it, and what has happened to it here."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from nats.aio.msg import Msg

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.events.event import Event, Metadata, moment_of
from jetstream_bridge.events.wire_rules import message_size
from jetstream_bridge.inbox.handlers import Handler
from jetstream_bridge.inbox.reading import Reader
from jetstream_bridge.inbox.received import Place, Received
from jetstream_bridge.nats.delivered import delivered_at

STREAM_ORDER = attrgetter("epoch", "seq")


class Delivery:
    """One message in hand, read once when it arrives."""

    __slots__ = (
        "_reader",
        "_reading",
        "_unread",
        "arrived",
        "begun",
        "count",
        "envelope",
        "epoch",
        "event",
        "given_back",
        "handler",
        "headers",
        "holds",
        "key",
        "metadata",
        "msg",
        "payload",
        "place",
        "received",
        "resource",
        "seconds",
        "seq",
        "size",
        "stale",
        "touched",
        "tries",
        "verdict",
        "wait",
    )

    def __init__(self, msg: Msg, reader: Reader) -> None:
        place = delivered_at(msg.reply)
        self.msg = msg
        self.seq = place.seq
        self.count = place.delivery  # of all deliveries of the consumer
        self.tries = place.tries
        self.headers: dict[str, str] = msg.headers or {}
        self.size = message_size(msg)  # in bytes
        self.arrived = loop_time()
        self.touched = self.arrived  # when the server last heard that it is being worked on
        self.given_back = False  # the server was asked to deliver it again
        self.epoch = 0  # which of the streams that this worker has seen delivered it
        self.stale = False  # its stream was made anew since: the server knows it no more
        self.begun = False  # a run by itself is noted, and has not ended
        self.holds = 0  # how often it was held back for what is not its own fault
        self.wait = 0.0  # seconds to hold it back now
        self.event: Event[Any] | None = None  # once its handler was called
        self.seconds: float | None = None  # in its handler, with its middlewares
        self.metadata = Metadata(
            subject=msg.subject,
            stream=place.stream,
            sequence=self.seq,
            consumer=place.consumer,
            deliveries=self.tries,
            timestamp=moment_of(place.nanoseconds),
            headers=self.headers,
        )
        self.place: Place = (self.seq, place.nanoseconds // 1000)
        self._reader, self._unread = reader, True
        self._reading = reading = reader.read(msg, self.headers, self.metadata)
        self.key = reading.key
        self.resource = reading.resource
        self.envelope = reading.envelope
        self.handler = reading.handler
        self.payload: Any = reading.payload  # once it was read
        self.verdict = reading.verdict
        is_envelope = self.envelope is not None and bool(self.envelope.raw)
        self.received = Received(
            key=self.key,
            subject=msg.subject,
            data=msg.data if is_envelope else None,
            headers=self.headers,
            stream=place.stream,
            seq=self.seq,
            stored_us=self.place[1],
            deliveries=self.tries,
        )

    def read(self) -> None:
        """Read the payload, or find the verdict; runs the service's own code, and may raise."""
        if self._unread:
            self._reader.finish(self._reading)
            self._unread = False
            self.envelope, self.payload = self._reading.envelope, self._reading.payload
            self.verdict = self._reading.verdict

    @property
    def batch_handler(self) -> Handler | None:
        """The handler, where it takes a list of events."""
        handler = self.handler
        return handler if handler is not None and handler.options.batch is not None else None

    @property
    def event_type(self) -> str:
        return self.envelope.type if self.envelope is not None else "unknown"
