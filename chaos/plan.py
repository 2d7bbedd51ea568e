"""What goes wrong when, drawn from a seed: the same seed gives the same plan.

No target has two faults at a time; faults of different targets overlap as they like.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

NATS, DATABASE = "nats-server", "PostgreSQL"


class Kind(StrEnum):
    """What can go wrong."""

    KILL = "killed"
    STOP = "told to stop"
    FREEZE = "frozen"
    CUT_NATS = "cut from NATS"
    CUT_DATABASE = "cut from the database"
    HOLD_NATS = "nothing arrives from NATS"
    HOLD_DATABASE = "nothing arrives from the database"
    NATS_KILLED = "NATS killed"
    NATS_STOPPED = "NATS stopped"
    DATABASE_KILLED = "database killed"
    DATABASE_STOPPED = "database stopped"
    READ_ONLY = "database read-only"

    @property
    def target(self) -> str | None:
        """The server that it befalls; None: it befalls one process."""
        return _SERVERS.get(self)


_SERVERS = {
    Kind.NATS_KILLED: NATS,
    Kind.NATS_STOPPED: NATS,
    Kind.DATABASE_KILLED: DATABASE,
    Kind.DATABASE_STOPPED: DATABASE,
    Kind.READ_ONLY: DATABASE,
}

# Seconds that a fault lasts, from and to. A process that was killed or stopped is away so long.
_LASTS: dict[Kind, tuple[float, float]] = {
    Kind.KILL: (0.0, 3.0),
    Kind.STOP: (0.0, 3.0),
    Kind.FREEZE: (1.0, 12.0),
    Kind.CUT_NATS: (0.0, 0.0),
    Kind.CUT_DATABASE: (0.0, 0.0),
    Kind.HOLD_NATS: (1.0, 12.0),
    Kind.HOLD_DATABASE: (1.0, 12.0),
    Kind.NATS_KILLED: (0.5, 8.0),
    Kind.NATS_STOPPED: (0.5, 8.0),
    Kind.DATABASE_KILLED: (0.5, 6.0),
    Kind.DATABASE_STOPPED: (0.5, 6.0),
    Kind.READ_ONLY: (4.0, 8.0),
}
# How often each is drawn, beside the others, after each had its turn.
_WEIGHTS = {Kind.KILL: 4, Kind.STOP: 3, Kind.FREEZE: 2}

_LONG = 120.0  # seconds; in a longer run faults last up to
_LONGER = 3.0  # times as long

_PAUSE = (0.5, 2.5)  # seconds from the beginning of one fault to that of the next
_FIRST = 2.0  # seconds in which all is well
_REST = 3.0  # seconds before a process has its next fault
_REST_OF_A_SERVER = 8.0  # seconds; without one, nobody gets far enough to be disturbed


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, `at` so many seconds from the start, for so many `seconds`."""

    at: float
    kind: Kind
    target: str
    seconds: float

    @property
    def end(self) -> float:
        return self.at + self.seconds

    def __str__(self) -> str:
        lasts = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.target}: {self.kind}{lasts}"


def make_plan(seed: int, seconds: float, processes: Sequence[str]) -> list[Fault]:
    """Draw the faults of a run: each kind once, in any order, and then at random."""
    random = Random(seed)
    busy: dict[str, float] = {}  # when a target may have its next fault
    plan: list[Fault] = []
    moment = _FIRST
    for kind in _kinds(random):
        shortest, longest = _LASTS[kind]
        lasts = random.uniform(shortest, longest * (_LONGER if seconds > _LONG else 1.0))
        free = [t for t in _targets(kind, processes) if busy.get(t, 0.0) <= moment]
        if free and moment + lasts < seconds:
            target = random.choice(free)
            plan.append(Fault(moment, kind, target, lasts))
            rest = _REST if kind.target is None else _REST_OF_A_SERVER + lasts
            busy[target] = moment + lasts + rest
        moment += random.uniform(*_PAUSE)
        if moment >= seconds:
            break
    return plan


def _kinds(random: Random) -> Iterator[Kind]:
    every = list(Kind)
    random.shuffle(every)
    yield from every
    weights = [_WEIGHTS.get(kind, 1) for kind in Kind]
    while True:
        yield random.choices(list(Kind), weights)[0]


def _targets(kind: Kind, processes: Sequence[str]) -> Sequence[str]:
    return (kind.target,) if kind.target is not None else processes
