"""What a worker holds: messages in hand, in the order in which they may be handled.

Events of one resource are handled one after another, in stream order. While one of them waits
for its next try, those behind it wait with it, here and without being counted as tried. Events
without a resource id have no order to keep.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from operator import attrgetter
from typing import Any

from nats.aio.msg import Msg

from .clock import loop_time
from .event import Event, Metadata
from .inbox import Received
from .reading import Reader
from .slots import Share, Slots


class Delivery:
    """One message in hand, read once when it arrives."""

    __slots__ = (
        "envelope",
        "event",
        "given_back",
        "handler",
        "headers",
        "key",
        "metadata",
        "msg",
        "payload",
        "received",
        "resource",
        "seconds",
        "seq",
        "touched",
        "tries",
        "verdict",
    )

    def __init__(self, msg: Msg, reader: Reader) -> None:
        metadata = msg.metadata
        self.msg = msg
        self.seq: int = metadata.sequence.stream
        self.tries: int = metadata.num_delivered or 1
        self.headers = {name: str(value) for name, value in (msg.headers or {}).items()}
        self.touched = loop_time()  # when the server last heard that it is being worked on
        self.given_back = False  # the server was asked to deliver it again
        self.event: Event[Any] | None = None  # once its handler was called
        self.seconds: float | None = None  # in its handler, where somebody asks for it
        self.metadata = Metadata(
            subject=msg.subject,
            stream=metadata.stream,
            sequence=self.seq,
            consumer=metadata.consumer,
            deliveries=self.tries,
            timestamp=metadata.timestamp,
            headers=self.headers,
        )
        reading = reader.read(msg, self.headers, self.metadata)
        self.key = reading.key
        self.resource = reading.resource
        self.envelope = reading.envelope
        self.handler = reading.handler
        self.payload: Any = reading.payload
        self.verdict = reading.verdict
        is_envelope = self.envelope is not None and bool(self.envelope.raw)
        self.received = Received(
            key=self.key,
            subject=msg.subject,
            body=msg.data.decode() if is_envelope else None,
            headers=self.headers,
            stream=metadata.stream,
            seq=self.seq,
            deliveries=self.tries,
        )

    @property
    def event_type(self) -> str:
        return self.envelope.type if self.envelope is not None else "unknown"


@dataclass(slots=True)
class _Block:
    """A resource whose event `seq` comes again at `due`; nobody waits past `until`."""

    seq: int
    due: float
    until: float


_SEQ = attrgetter("seq")


class Deliveries:
    """Messages in hand, by resource."""

    def __init__(self, slots: Slots | None = None) -> None:
        """`slots` keeps handlers to limits of their own, where there are such."""
        self._slots = slots
        self._in_hand: dict[int, Delivery] = {}  # by stream sequence
        self._back: dict[int, Delivery] = {}  # here again before the batch that failed it ended
        self._queues: dict[str, list[Delivery]] = {}
        self._turns: dict[str, None] = {}  # resources with work, in the order of their turn
        self._running: set[str] = set()
        self._blocked: dict[str, _Block] = {}
        self._waiting = 0  # queued behind an event that is to come again

    def add(self, delivery: Delivery) -> None:
        """Take a message in. One that comes again lifts the block that waits for it."""
        held = self._in_hand.get(delivery.seq)
        if held is not None and held.given_back:
            self._back[delivery.seq] = delivery
            return
        if held is not None:
            # Redelivered while it is here: the newer copy's acknowledgement is the one to give.
            held.msg, held.tries, held.metadata = delivery.msg, delivery.tries, delivery.metadata
            return
        block = self._blocked.get(delivery.resource)
        if block is not None and delivery.seq == block.seq:
            self.unblock(delivery.resource)
        self._enqueue(delivery)

    def _enqueue(self, delivery: Delivery) -> None:
        resource = delivery.resource
        self._in_hand[delivery.seq] = delivery
        insort(self._queues.setdefault(resource, []), delivery, key=_SEQ)
        if resource in self._blocked:
            self._waiting += 1
        self._offer(resource)

    def _offer(self, resource: str) -> None:
        if (
            resource in self._queues
            and resource not in self._running
            and resource not in self._blocked
        ):
            self._turns.setdefault(resource)

    def take(self, limit: int, *, alone: Callable[[Delivery], bool]) -> list[Delivery]:
        """Take up to `limit` messages, resource by resource; their resources are then busy.

        A message that must run `alone` is a batch by itself. A resource whose next message finds
        its handler at a limit is passed over, and the batch may be empty then.
        """
        batch: list[Delivery] = []
        share = self._slots.share() if self._slots is not None else None
        for resource in tuple(self._turns):
            if len(batch) >= limit:
                break
            queue = self._queues[resource]
            taken = _together(queue, limit - len(batch), alone, share)
            if not taken:
                if share is not None and not (alone(queue[0]) and share.has_room(queue[0])):
                    continue
                if batch:
                    break
                taken = queue[:1]
                limit = 1
            self._start(resource, len(taken))
            batch.extend(taken)
        if self._slots is not None:
            self._slots.begin(batch)
        return batch

    def _start(self, resource: str, number: int) -> None:
        queue = self._queues[resource]
        del self._turns[resource]
        del queue[:number]
        if not queue:
            del self._queues[resource]
        self._running.add(resource)

    def finish(self, batch: list[Delivery], *, unhandled: Sequence[Delivery] = ()) -> None:
        """The resources of `batch` are free again; `unhandled` return to their places."""
        if self._slots is not None:
            self._slots.end(batch)
        for delivery in batch:
            self._in_hand.pop(delivery.seq, None)
            self._running.discard(delivery.resource)
        for delivery in unhandled:
            self._enqueue(delivery)
        for delivery in batch:
            if (back := self._back.pop(delivery.seq, None)) is not None:
                self.add(back)
        for delivery in batch:
            self._offer(delivery.resource)

    def block(self, delivery: Delivery, *, due: float, until: float) -> None:
        """Nothing of this resource runs until `delivery` has come again, or `until`."""
        resource = delivery.resource
        if resource not in self._blocked:
            self._waiting += len(self._queues.get(resource, ()))
        self._blocked[resource] = _Block(delivery.seq, due, until)
        self._turns.pop(resource, None)

    def unblock(self, resource: str) -> None:
        """Let the resource go on; its event came again, or will not."""
        if self._blocked.pop(resource, None) is not None:
            self._waiting -= len(self._queues.get(resource, ()))
            self._offer(resource)

    def overdue(self, now: float) -> list[tuple[str, int, bool]]:
        """Return (resource, awaited sequence, give up) of blocks whose event should be back."""
        return [
            (resource, block.seq, now > block.until)
            for resource, block in self._blocked.items()
            if now > block.due
        ]

    def clear(self) -> list[Delivery]:
        """Take everything that is not running, to hand it back."""
        queued = [delivery for queue in self._queues.values() for delivery in queue]
        for delivery in queued:
            del self._in_hand[delivery.seq]
        self._queues.clear()
        self._turns.clear()
        self._blocked.clear()
        self._waiting = 0
        return sorted(queued, key=_SEQ)

    def __iter__(self) -> Iterator[Delivery]:
        """Everything in hand: queued, waiting and running."""
        return chain(self._in_hand.values(), self._back.values())

    @property
    def active(self) -> int:
        """Messages in hand that run or could run, those behind a blocked one not counted."""
        return len(self._in_hand) - self._waiting

    @property
    def queued(self) -> int:
        """Messages that could run now."""
        return sum(len(self._queues[resource]) for resource in self._turns)

    @property
    def runnable(self) -> bool:
        return bool(self._turns)


def _together(
    queue: list[Delivery],
    limit: int,
    alone: Callable[[Delivery], bool],
    share: Share | None,
) -> list[Delivery]:
    if share is None:
        return list(takewhile(lambda delivery: not alone(delivery), queue[:limit]))
    return list(
        takewhile(lambda delivery: not alone(delivery) and share.take(delivery), queue[:limit])
    )
