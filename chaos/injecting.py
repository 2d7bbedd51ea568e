"""Does what the plan says, and keeps the book of what happened when.

Each fault has a thread of its own while it lasts, so that one that takes long (a process that is
told to stop in the midst of its work) does not hold up the next.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock

from chaos.plan import DATABASE, NATS, Fault, Kind
from chaos.town import GRACE, Member, Town

# What a process may take beyond its grace: acknowledgements, the connection, the pool.
STOPS_WITHIN = GRACE + 15.0 + 5.0  # seconds; the last five are a busy machine's


@dataclass
class Window:
    """A fault as it happened: in seconds since the run's start.

    It lasted from `begin` to `over`; at `end` it was put right too, a server's start included.
    """

    fault: Fault
    begin: float
    over: float = float("inf")
    end: float = float("inf")

    def __str__(self) -> str:
        return f"{self.begin:7.2f} to {self.end:7.2f}  {self.fault}"


@dataclass
class Book:
    """What happened, and what of it should not have."""

    started: float = field(default_factory=time.monotonic)
    windows: list[Window] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def now(self) -> float:
        return time.monotonic() - self.started


class Injector:
    """Brings the faults of a plan upon the town."""

    def __init__(self, town: Town, book: Book) -> None:
        self._town = town
        self._book = book
        self._locks = {target: Lock() for target in (*town.members, NATS, DATABASE)}
        # Each begins a fault, and returns what puts it right.
        self._ways: dict[Kind, Callable[[Fault], Callable[[], object]]] = {
            Kind.KILL: self._kill,
            Kind.STOP: self._stop,
            Kind.FREEZE: self._freeze,
            Kind.CUT_NATS: self._cut_nats,
            Kind.CUT_DATABASE: self._cut_database,
            Kind.HOLD_NATS: self._hold,
            Kind.HOLD_DATABASE: self._hold,
            Kind.NATS_KILLED: self._nats,
            Kind.NATS_STOPPED: self._nats,
            Kind.DATABASE_KILLED: self._database,
            Kind.DATABASE_STOPPED: self._database,
            Kind.READ_ONLY: self._read_only,
        }

    def run(self, plan: Sequence[Fault]) -> None:
        """Return when the last fault is over; raise what went wrong with the tools themselves."""
        running: list[Future[None]] = []
        with ThreadPoolExecutor(len(plan) or 1) as threads:
            for fault in plan:
                time.sleep(max(0.0, fault.at - self._book.now()))
                running.append(threads.submit(self._befall, fault))
        for done in running:
            done.result()

    def _befall(self, fault: Fault) -> None:
        with self._locks[fault.target]:  # one that is told to stop may take longer than planned
            self._befall_alone(fault)

    def _befall_alone(self, fault: Fault) -> None:
        window = Window(fault, self._book.now())
        self._book.windows.append(window)
        try:
            put_right = self._ways[fault.kind](fault)
            time.sleep(fault.seconds)
            window.over = self._book.now()
            put_right()
        finally:
            window.end = self._book.now()

    def _member(self, fault: Fault) -> Member:
        return self._town.members[fault.target]

    def _kill(self, fault: Fault) -> Callable[[], None]:
        process = self._member(fault).process
        status = process.kill()
        if status != -signal.SIGKILL:
            self._book.violations.append(f"{process.name} had ended with status {status}")
        return process.start

    def _stop(self, fault: Fault) -> Callable[[], None]:
        member = self._member(fault)
        asked = self._book.now()
        status = member.process.stop(grace=STOPS_WITHIN)
        if status is None:
            self._book.violations.append(
                f"{member.name}, told to stop at {asked:.1f}, ran on for {STOPS_WITHIN:g} s"
            )
            member.process.kill()
        elif status not in member.good_statuses:
            took = self._book.now() - asked
            self._book.violations.append(
                f"{member.name}, told to stop at {asked:.1f}, ended with {status} in {took:.1f} s"
            )
        return member.process.start

    def _freeze(self, fault: Fault) -> Callable[[], None]:
        process = self._member(fault).process
        process.send(signal.SIGSTOP)
        return lambda: process.send(signal.SIGCONT)

    def _cut_nats(self, fault: Fault) -> Callable[[], None]:
        self._member(fault).nats.cut()
        return _nothing

    def _cut_database(self, fault: Fault) -> Callable[[], None]:
        self._member(fault).database.cut()
        return _nothing

    def _hold(self, fault: Fault) -> Callable[[], None]:
        member = self._member(fault)
        proxy = member.nats if fault.kind is Kind.HOLD_NATS else member.database
        proxy.hold()
        return proxy.release

    def _nats(self, fault: Fault) -> Callable[[], object]:
        nats = self._town.nats
        if fault.kind is Kind.NATS_KILLED:
            nats.kill()
        else:
            nats.terminate()
        return nats.start

    def _database(self, fault: Fault) -> Callable[[], object]:
        postgres = self._town.postgres
        if fault.kind is Kind.DATABASE_KILLED:
            postgres.kill()
        else:
            postgres.terminate()
        return postgres.start

    def _read_only(self, fault: Fault) -> Callable[[], None]:
        """As after a failover to a standby: sessions go on, and no transaction may write."""
        self._set_read_only("on")
        return lambda: self._set_read_only("off")

    def _set_read_only(self, value: str) -> None:
        postgres = self._town.postgres
        postgres.run(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        postgres.run("SELECT pg_reload_conf()")


def _nothing() -> None:
    """A connection that was cut is made anew by who needs it."""
