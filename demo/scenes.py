"""The scenes of the demo: what is done, and what can be seen of it on the other side.

Everything is done and seen through the services' own HTTP. A time begins when a client has the
answer to its change, and ends when a client of the other service can see the change.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from demo.customers import Customer, Side, differences
from demo.pair import Pair
from demo.terminal import Terminal

_LIMIT = 30.0  # seconds until an event must have arrived
_LOOK = 0.001  # seconds between two looks at the other side
_RENAMED = {
    "Ada Byron": "Ada Lovelace",
    "Grace Murray": "Grace Hopper",
    "Mary Winston": "Mary Jackson",
}
_DELETED = ("Katherine Johnson", "Radia Perlman")
_MANY = 200  # customers
_OUTAGE = 2.0  # seconds
_BETWEEN_WRITES = 0.02  # seconds
_MARKS = 300
_FREEZE_AFTER = 50  # effects


class NotOnceError(Exception):
    """An event took effect more than once, or not at all."""


class Arrivals:
    """When each of many new customers was answered for on one side, and seen on the other.

    Their ids grow, so a look asks only for those after the last one before which none is missing.
    """

    def __init__(self, side: Side, *, after: str) -> None:
        self._side = side
        self._after = after
        self._answered: dict[str, float] = {}
        self._seen: dict[str, float] = {}

    def answered(self, customer_id: str) -> None:
        self._answered[customer_id] = time.monotonic()

    def look(self) -> int:
        """Look for new ones; return how many have been seen so far."""
        there = self._side.customers(after=self._after)
        now = time.monotonic()
        for customer_id in there:
            self._seen.setdefault(customer_id, now)
        for customer_id in list(self._answered):
            if customer_id not in self._seen:
                break
            self._after = max(self._after, customer_id)
        return len(self._seen)

    def times(self) -> list[float]:
        """Seconds from answer to sight, none below 0: an event may overtake its answer."""
        return [max(0.0, self._seen[key] - moment) for key, moment in self._answered.items()]


@dataclass
class Demo:
    """The two services and what has been seen of them so far."""

    pair: Pair
    orders: Side
    billing: Side
    terminal: Terminal
    times: list[float] = field(default_factory=list)  # seconds, while all was well
    events: int = 0

    def one_by_one(self) -> None:
        """Create, change and delete a few customers; each event arrives before the next change."""
        self.terminal.title(
            "Each change and its event", "ms from the HTTP answer until the other side shows it"
        )
        renamed = [self._watched("created", self.orders, name) for name in _RENAMED]
        deleted = [self._watched("created", self.orders, name) for name in _DELETED]
        for person in renamed:
            self._watched("updated", self.orders, _RENAMED[person.name], person)
        for person in deleted:
            self._watched("deleted", self.orders, person.name, person)
        self._watched("created", self.billing, "Alan Turing")

    def many(self) -> None:
        """Create many customers as fast as one client can."""
        self.terminal.title(f"{_MANY} more customers, one after the other")
        begun = time.monotonic()
        arrivals = Arrivals(self.billing, after=max(self.orders.customers()))
        with ThreadPoolExecutor(1) as client:
            writing = client.submit(self._create_many, arrivals)
            self._until(
                lambda: arrivals.look() == _MANY, what=f"arrival of {_MANY} customers", pause=0.005
            )
            writing.result()
        times = arrivals.times()
        self.times += times
        self.events += _MANY
        self.terminal.say(f"all there after {time.monotonic() - begun:.1f} s; {summary(times)}")

    def _create_many(self, arrivals: Arrivals) -> None:
        for number in range(_MANY):
            customer = self.orders.create(f"Customer {number}")
            arrivals.answered(customer.id)

    def outage(self) -> None:
        """Write while there is no NATS."""
        self.terminal.title(
            f"nats-server is stopped for {_OUTAGE:g} seconds, and clients go on writing"
        )
        self.pair.stop_nats()
        deadline = time.monotonic() + _OUTAGE
        written: list[str] = []
        while time.monotonic() < deadline:
            written.append(self.orders.create(f"Patient {len(written)}").id)
            time.sleep(_BETWEEN_WRITES)
        missing = len(set(written) - self.billing.customers().keys())
        self.terminal.say(
            f"{len(written)} writes, all answered 201; {missing} of them not yet in billing"
        )
        self.pair.start_nats()
        back = time.monotonic()
        self._until(
            lambda: self.billing.customers().keys() >= set(written),
            what="arrival of what was written without NATS",
        )
        self.events += len(written)
        self.terminal.say(f"all of them there {time.monotonic() - back:.1f} s after it was back")

    def crash(self) -> None:
        """Kill a worker that has events in its hands."""
        worker = self.billing.service.worker
        self.terminal.title(
            "A worker hangs amid its work and is killed with -9",
            "each effect is a row, with no guard of its own",
        )
        with ThreadPoolExecutor(1) as client:
            writing = client.submit(self._make_marks)
            self._until(lambda: self.billing.marks()[0] >= _FREEZE_AFTER, what="the first effects")
            worker.freeze()
            self._until(self._in_hand, what="events in the hands of a worker that hangs")
            writing.result()
            done, _ = self.billing.marks()
            in_hand = self._in_hand()
            worker.kill()
        self.terminal.say(
            f"killed after {done} of {_MARKS} events, with {in_hand} more in its hands"
        )
        worker.start()
        self._until(
            lambda: self.billing.marks()[1] == _MARKS and self._queue_is_empty(),
            what=f"{_MARKS} effects",
        )
        effects, events = self.billing.marks()
        self.events += _MARKS
        self.terminal.say(
            f"started again as process {worker.pid}: {events} events had {effects} effects"
        )
        if effects != events:
            raise NotOnceError(f"{events} events had {effects} effects")

    def _make_marks(self) -> None:
        for number in range(_MARKS):
            self.orders.make_mark(number)

    def disagreement(self) -> list[str]:
        """What the services still show differently when every event should have arrived."""
        lines: list[str] = []

        def agree() -> bool:
            nonlocal lines
            lines = differences(self.orders, self.billing)
            return not lines and self._queue_is_empty()

        try:
            self._until(agree, what="an empty queue, after which both sides would agree")
        except TimeoutError:
            if not lines:
                raise
        return lines

    def _watched(
        self, what: str, side: Side, name: str, customer: Customer | None = None
    ) -> Customer:
        """Make one change on `side`, and print it when the other one shows it."""
        if what == "deleted" and customer is not None:
            side.delete(customer)
            version, expected = customer.version + 1, None
        else:
            customer = side.rename(customer, name) if customer else side.create(name)
            version, expected = customer.version, customer
        answered = time.monotonic()
        other = self.billing if side is self.orders else self.orders
        self._until(
            lambda: other.find(customer.id) == expected,
            what=f"customer.{what} of {name} at {other.name}",
        )
        duration = time.monotonic() - answered
        self.times.append(duration)
        self.events += 1
        way = f"{side.name:<7} -> nats -> {other.name:<7}"
        self.terminal.say(
            f"{way}  customer.{what}  {name:<20} version {version} {duration * 1000:>9.0f} ms"
        )
        return customer

    def _until(self, condition: Callable[[], object], *, what: str, pause: float = _LOOK) -> None:
        self.pair.wait_until(condition, what=what, limit=_LIMIT, pause=pause)

    def _queue_is_empty(self) -> bool:
        return self.pair.stream().messages == 0

    def _in_hand(self) -> int:
        """Events that billing's worker has been given and has not acknowledged."""
        return self.pair.in_hand(self.billing.service)


def summary(times: list[float]) -> str:
    """Median and 99th percentile of `times`, which are in seconds."""
    ordered = sorted(times)
    worst = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return (
        f"median {statistics.median(ordered) * 1000:.0f} ms, 99th percentile {worst * 1000:.0f} ms"
    )
