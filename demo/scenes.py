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
_PEOPLE = ("Ada Lovelace", "Grace Hopper", "Mary Jackson", "Katherine Johnson", "Radia Perlman")
_MANY = 200  # customers
_OUTAGE = 2.0  # seconds
_BETWEEN_WRITES = 0.02  # seconds
_MARKS = 300
_KILL_AFTER = 50  # effects


class NotOnceError(Exception):
    """An event took effect more than once, or not at all."""


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
        """Create, change and delete a few customers, each seen on the other side before the next."""
        self.terminal.title(
            "Each change and its event", "ms from the HTTP answer until the other side shows it"
        )
        people = [self._watched("created", self.orders, name) for name in _PEOPLE]
        for person in people[:3]:
            self._watched("updated", self.orders, f"{person.name}-Smith", person)
        for person in people[3:]:
            self._watched("deleted", self.orders, person.name, person)
        self._watched("created", self.billing, "Alan Turing")

    def many(self) -> None:
        """Create many customers as fast as one client can."""
        newest = max(self.orders.customers())
        answered: dict[str, float] = {}
        seen: dict[str, float] = {}

        def write() -> None:
            for number in range(_MANY):
                customer = self.orders.create(f"Customer {number}")
                answered[customer.id] = time.monotonic()

        def all_seen() -> bool:
            now_there = self.billing.customers(after=newest)
            moment = time.monotonic()
            for customer_id in now_there.keys() - seen.keys():
                seen[customer_id] = moment
            return len(seen) == _MANY

        begun = time.monotonic()
        with ThreadPoolExecutor(1) as client:
            writing = client.submit(write)
            self._until(all_seen, what=f"arrival of {_MANY} customers")
            writing.result()
        # An event may be there before its writer has read the answer.
        times = [max(0.0, seen[customer_id] - moment) for customer_id, moment in answered.items()]
        self.times += times
        self.events += _MANY
        self.terminal.title(f"{_MANY} more customers, one after the other")
        self.terminal.say(f"all of them there after {time.monotonic() - begun:.1f} s; {summary(times)}")

    def outage(self) -> None:
        """Write while there is no NATS."""
        self.terminal.title(f"nats-server is stopped for {_OUTAGE:g} seconds, and clients go on writing")
        self.pair.stop_nats()
        deadline = time.monotonic() + _OUTAGE
        written = []
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
            "A worker is killed with -9 amid its work", "its handler adds a row, without any guard"
        )

        def write() -> None:
            for number in range(_MARKS):
                self.orders.make_mark(number)

        with ThreadPoolExecutor(1) as client:
            writing = client.submit(write)
            self._until(lambda: self.billing.marks()[0] >= _KILL_AFTER, what="the first effects")
            worker.kill()
            done, _ = self.billing.marks()
            self.terminal.say(
                f"killed after {done} of {_MARKS} events, with {self._in_hand()} more in its hands"
            )
            worker.start()
            writing.result()
        self._until(
            lambda: self.billing.marks()[1] == _MARKS and self._queue_is_empty(),
            what=f"{_MARKS} effects",
        )
        effects, events = self.billing.marks()
        self.events += _MARKS
        self.terminal.say(
            f"started again as process {worker.pid}: {events} events, {effects} effects"
        )
        if effects != events:
            raise NotOnceError(f"{events} events had {effects} effects")

    def disagreement(self) -> list[str]:
        """What the two services still show differently when all events should have arrived."""
        lines: list[str] = []

        def agree() -> bool:
            nonlocal lines
            lines = differences(self.orders, self.billing)
            return not lines and self._queue_is_empty()

        try:
            self._until(agree, what="agreement")
        except TimeoutError:
            pass
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
        way = f"{side.name:>7} -> nats -> {other.name:<7}"
        self.terminal.say(
            f"{way}  customer.{what}  {name:<20} version {version} {duration * 1000:>9.0f} ms"
        )
        return customer

    def _until(self, condition: Callable[[], object], *, what: str) -> None:
        self.pair.wait_until(condition, what=what, limit=_LIMIT, pause=_LOOK)

    def _queue_is_empty(self) -> bool:
        stream = self.pair.stream()
        return stream is not None and stream["state"]["messages"] == 0

    def _in_hand(self) -> int:
        """Events that billing's worker has been given and has not acknowledged."""
        stream = self.pair.stream() or {}
        consumers = stream.get("consumer_detail") or []
        return sum(c["num_ack_pending"] for c in consumers if "billing" in c["name"])


def summary(times: list[float]) -> str:
    """Median and 99th percentile of `times`, which are in seconds."""
    ordered = sorted(times)
    worst = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return (
        f"median {statistics.median(ordered) * 1000:.0f} ms, "
        f"99th percentile {worst * 1000:.0f} ms"
    )
