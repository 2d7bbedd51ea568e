"""What a worker holds: messages in hand, in the order in which they may be handled.

Events of one resource are handled one after another, in stream order. While one of them waits
for its next try, those behind it wait with it, here and without being counted as tried. Events
without a resource id have no order to keep.

A message is its place: its sequence and the moment at which the stream stored it. A stream that
is made anew counts from 1 again, so a sequence alone would make a new event look like one that is
in hand. What a stream before the present one delivered is handled, and not answered: the answer
would end the new message at that sequence.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile

from jetstream_bridge.inbox.concurrency_limits import ConcurrencyLimits, TransactionShare
from jetstream_bridge.inbox.delivery import STREAM_ORDER, Delivery
from jetstream_bridge.inbox.filling import Filling
from jetstream_bridge.inbox.handlers import Handler
from jetstream_bridge.inbox.held import Held
from jetstream_bridge.inbox.received import Place


@dataclass(slots=True)
class _BlockedResource:
    """A resource whose event at `place` comes again at `due`; nobody waits past `until`.

    Of an event that somebody else had, `due` is when it is asked after, and it `comes` later.
    """

    place: Place
    due: float
    until: float
    comes: float = math.inf


@dataclass(frozen=True, slots=True)
class OverdueEvent:
    """An event that should be here and is not. `given_up`: waited for long enough."""

    resource: str
    place: Place
    given_up: bool


class Deliveries:
    """Messages in hand, by resource."""

    def __init__(self, concurrency_limits: ConcurrencyLimits | None = None) -> None:
        """`concurrency_limits` keeps handlers to limits of their own, where there are such."""
        self._concurrency = concurrency_limits
        self._in_hand = Held()
        self._back = Held()  # here again before the batch that failed it ended
        self._queues: dict[str, list[Delivery]] = {}
        # Resources with work, in the order of their turn, and how many events of each may run.
        self._turns: dict[str, int] = {}
        self._running: set[str] = set()
        self._blocked: dict[str, _BlockedResource] = {}
        # What is not here, and comes before what is: somebody else has had it in hand.
        self._awaited: dict[str, dict[Place, _BlockedResource]] = {}
        self._waits: dict[str, int] = {}  # by resource: queued behind an event that is to come
        self._waiting = 0  # the sum of these
        self.queued = 0  # messages that could run now
        self._epoch = 0
        self._has_lists = False  # a handler that takes a list has had a message
        self.filled_at = math.inf  # when the lists that are being filled have waited long enough

    def add(self, delivery: Delivery) -> None:
        """Take a message in. One that comes again lifts the block that waits for it."""
        if not delivery.stale:
            delivery.epoch = self._epoch
        held = self._in_hand.get(delivery.place)
        if held is not None and held.given_back:
            self._back[delivery.place] = delivery
            return
        if held is not None:
            # Redelivered while it is here: the newer copy's acknowledgement is the one to give.
            held.msg, held.tries, held.metadata = delivery.msg, delivery.tries, delivery.metadata
            held.stale = False
            return
        block = self._blocked.get(delivery.resource)
        if block is not None and delivery.place == block.place:
            self.unblock(delivery.resource)
        self._enqueue(delivery)
        self.no_longer_awaited(delivery.resource, delivery.place)

    def _enqueue(self, delivery: Delivery) -> None:
        resource = delivery.resource
        delivery.given_back = False
        self._has_lists = self._has_lists or delivery.batch_handler is not None
        self._in_hand[delivery.place] = delivery
        queue = self._queues.get(resource)
        if queue is None:
            self._queues[resource] = [delivery]
        else:
            insort(queue, delivery, key=STREAM_ORDER)
        self._review(resource)

    def _review(self, resource: str) -> None:
        """Give the resource its turn or take it back; count those of it that have to wait."""
        ready = self._ready(resource)
        waiting = len(self._queues.get(resource, ())) - ready
        if waiting or resource in self._waits:
            self._waiting += waiting - self._waits.pop(resource, 0)
            if waiting:
                self._waits[resource] = waiting
        may_run = 0 if resource in self._running else ready
        self.queued += may_run - self._turns.get(resource, 0)
        if may_run:
            self._turns[resource] = may_run  # an old turn keeps its place
        else:
            self._turns.pop(resource, None)

    def _ready(self, resource: str) -> int:
        """How many of the resource may run: those before anything that is not here."""
        queue = self._queues.get(resource)
        if queue is None or resource in self._blocked:
            return 0
        if (awaited := self._awaited.get(resource)) is None:
            return len(queue)
        return bisect_left(queue, (self._epoch, min(awaited)[0]), key=STREAM_ORDER)

    def take(
        self, limit: int, *, alone: Callable[[Delivery], bool], lists: bool = True
    ) -> list[Delivery]:
        """Take up to `limit` messages, resource by resource; their resources are then busy.

        A message that must run `alone` is a batch by itself. A resource whose next message finds
        its handler at a limit is passed over, and so is one whose handler takes a list that is
        still being filled; the batch may be empty then. With `lists`, such a handler gets as many
        as it takes, whatever `limit` is; its messages share a transaction with nobody else's.
        """
        batch: list[Delivery] = []
        share = self._concurrency.share() if self._concurrency is not None else None
        filling = Filling(self._runnable_by_handler) if self._has_lists else None
        for resource, ready in tuple(self._turns.items()):
            if len(batch) >= limit:
                break
            queue = self._queues[resource][:ready]
            if filling is not None and not filling.may_join(queue[0], batch):
                continue
            if lists and not batch and (handler := queue[0].batch_handler) is not None:
                limit = handler.options.batch or limit
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
        self.filled_at = filling.until if filling is not None and not batch else math.inf
        if self._concurrency is not None:
            self._concurrency.begin(batch)
        return batch

    def _runnable_by_handler(self, handler: Handler, enough: int) -> list[Delivery]:
        """What the next batch of a handler could hold; it looks no further once it has `enough`."""
        found: list[Delivery] = []
        for resource, ready in self._turns.items():
            queue = self._queues[resource][:ready]
            found += takewhile(lambda delivery: delivery.handler is handler, queue)
            if len(found) >= enough:
                break
        return found

    def _start(self, resource: str, number: int) -> None:
        queue = self._queues[resource]
        self.queued -= self._turns.pop(resource)
        del queue[:number]
        if not queue:
            del self._queues[resource]
        self._running.add(resource)

    def finish(self, batch: list[Delivery], *, unhandled: Sequence[Delivery] = ()) -> None:
        """The resources of `batch` are free again; `unhandled` return to their places."""
        if self._concurrency is not None:
            self._concurrency.end(batch)
        for delivery in batch:
            self._in_hand.pop(delivery.place, None)
            self._running.discard(delivery.resource)
        for delivery in unhandled:
            self._enqueue(delivery)
        for delivery in batch:
            if (back := self._back.pop(delivery.place, None)) is not None:
                self.add(back)
        for delivery in batch:
            self._review(delivery.resource)

    def block(self, delivery: Delivery, *, due: float, until: float) -> None:
        """Nothing of this resource runs until `delivery` has come again, or `until`."""
        if delivery.stale:  # it comes from here, and surely
            due = until = math.inf
        self._blocked[delivery.resource] = _BlockedResource(delivery.place, due, until)
        self._review(delivery.resource)

    def unblock(self, resource: str) -> None:
        """Let the resource go on; its event came again, or will not."""
        if self._blocked.pop(resource, None) is not None:
            self._review(resource)

    def expect(
        self, resource: str, place: Place, *, due: float, comes: float, until: float
    ) -> bool:
        """Hold back what comes after `place`, which is not here; False where it is known."""
        block = self._blocked.get(resource)
        if place in self._in_hand or place in self._back or (block and block.place == place):
            return False
        self._awaited.setdefault(resource, {}).setdefault(
            place, _BlockedResource(place, due, until, comes)
        )
        self._review(resource)
        return True

    def no_longer_awaited(self, resource: str, place: Place) -> None:
        """It is here, or will not come: what comes after it goes on."""
        awaited = self._awaited.get(resource, {})
        if awaited.pop(place, None) is not None:
            if not awaited:
                del self._awaited[resource]
            self._review(resource)
        block = self._blocked.get(resource)
        if block is not None and block.place == place and place not in self._in_hand:
            self.unblock(resource)

    def made_anew(self) -> int:
        """The stream is another one: return how many are in hand that no server has now.

        Those that were to come again are gone with the old stream.
        """
        resources = [*self._blocked, *self._awaited]
        self._blocked.clear()
        self._awaited.clear()
        for resource in resources:
            self._review(resource)
        self._epoch += 1
        for delivery in self:
            delivery.stale = True
        return sum(1 for _ in self)

    def overdue(self, now: float) -> list[OverdueEvent]:
        """Return what others wait for and should be here."""
        waits = chain(
            self._blocked.items(),
            ((r, block) for r, awaited in self._awaited.items() for block in awaited.values()),
        )
        return [
            OverdueEvent(resource, block.place, now > block.until)
            for resource, block in waits
            if now > block.due
        ]

    def awaits(self, now: float) -> bool:
        """Whether an event that others wait for may have come again by now."""
        return any(now > block.due for block in self._blocked.values())

    def expects(self, now: float) -> bool:
        """Whether an event that somebody else had may be delivered again by now."""
        return any(
            now > block.comes for awaited in self._awaited.values() for block in awaited.values()
        )

    def clear(self) -> tuple[list[Delivery], list[Delivery]]:
        """Take everything that is not running, to hand it back: at once, and when what comes
        before it has been handed back or is done."""
        queued = [delivery for queue in self._queues.values() for delivery in queue]
        later = {delivery.place for delivery in queued if self.is_busy(delivery.resource)}
        for delivery in queued:
            del self._in_hand[delivery.place]
        self._queues.clear()
        self._turns.clear()
        self.queued = 0
        self._blocked.clear()
        self._awaited.clear()
        self._waits.clear()
        self._waiting = 0
        queued.sort(key=STREAM_ORDER)
        return (
            [delivery for delivery in queued if delivery.place not in later],
            [delivery for delivery in queued if delivery.place in later],
        )

    def __iter__(self) -> Iterator[Delivery]:
        """Everything in hand: queued, waiting and running."""
        return chain(self._in_hand.values(), self._back.values())

    def is_busy(self, resource: str) -> bool:
        """Whether an event of it runs, or has to come before those that are queued."""
        held = resource in self._blocked or resource in self._awaited
        return held or resource in self._running

    @property
    def known(self) -> int:
        """How many of those that the server counts as delivered are accounted for here."""
        return sum(1 for delivery in self if not delivery.stale) + len(self._blocked)

    @property
    def bytes(self) -> int:
        """What all of it takes, as the server counts it."""
        return self._in_hand.bytes + self._back.bytes

    @property
    def active(self) -> int:
        """Messages in hand that run or could run, those behind a blocked one not counted."""
        return len(self._in_hand) - self._waiting

    @property
    def runnable(self) -> bool:
        return bool(self._turns)


def _together(
    queue: list[Delivery],
    limit: int,
    alone: Callable[[Delivery], bool],
    share: TransactionShare | None,
) -> list[Delivery]:
    """The beginning of `queue` that may share a transaction."""
    whose = queue[0].batch_handler
    taken: list[Delivery] = []
    for delivery in queue[:limit]:
        if alone(delivery) or delivery.batch_handler is not whose:
            break
        if share is not None and not share.take(delivery):
            break
        taken.append(delivery)
    return taken
