"""The messages of one call to a publisher: whose turn it is, and what is unanswered."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from jetstream_bridge.nats.outgoing import OUTAGES, Outcome, Outgoing


class PublishCall:
    """One call's messages: what may be sent next, and what is still unanswered."""

    __slots__ = ("_first", "_following", "changed", "halted", "in_flight", "turns_until", "until")

    def __init__(
        self, chains: Iterable[Sequence[Outgoing]], *, until: float, turns_until: float
    ) -> None:
        self.until = until  # after this moment nothing more is sent
        self.turns_until = turns_until  # and after this one only what is first in its chain
        self._first = deque(_linked(chains))
        self._following: deque[Outgoing] = deque()
        self.in_flight = 0
        self.halted = False
        self.changed = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether something waits for its turn."""
        return bool(self._first or self._following)

    def next(self, now: float) -> Outgoing | None:
        """Return what is sent now; None when it is too late for all that is left."""
        if self._first:
            return self._first.popleft()
        if now <= self.turns_until:
            return self._following.popleft()
        self._following.clear()
        return None

    def lost(self, now: float, outcome: Outcome, error: str) -> None:
        """The connection failed before anything could be sent: let what is next show that."""
        message = self.next(now) if self.ready else None
        if message is not None:
            message.error = error
            self.settle(message, outcome)
        self.halted = True

    def settle(self, message: Outgoing, outcome: Outcome) -> None:
        message.outcome = outcome
        if outcome is Outcome.STORED:
            if message.following is not None:
                self._following.append(message.following)
        elif outcome in OUTAGES:
            self.halted = True
        self.changed.set()


def _linked(chains: Iterable[Sequence[Outgoing]]) -> Iterator[Outgoing]:
    """Yield the first message of each chain, and let each message know the one behind it."""
    for chain in chains:
        if chain:
            for message, following in pairwise(chain):
                message.following = following
            chain[-1].following = None
            yield chain[0]
