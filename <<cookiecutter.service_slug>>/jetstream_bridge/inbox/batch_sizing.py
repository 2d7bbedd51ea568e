"""How much to take at once, learned from how long handlers run.

Fast handlers share large transactions, slow ones run side by side, and a worker never holds more
than about a second of work, so that another worker finds some.
"""

from __future__ import annotations

import math

BATCH_SECONDS = 0.25  # how long the handlers of one transaction may take together
# After this a transaction takes up no other event, and commits: handlers were slower than learned.
LONGEST_TRANSACTION = 1.0  # seconds
PREFETCH_SECONDS = 1.0  # how much work to hold
SMOOTHING = 0.3  # weight of the newest measurement


class BatchSizer:
    """Batch size and prefetch of one worker. Times are seconds for each event."""

    def __init__(self, *, batch_size: int, concurrency: int, largest_list: int = 0) -> None:
        """`largest_list`: the most events that a handler takes at once."""
        self._batch_size = batch_size
        self._least_prefetch = 2 * largest_list  # so that one is filled while another runs
        self._concurrency = concurrency
        self._event_seconds: float | None = None

    def measured(self, events: int, seconds: float) -> None:
        """Learn that the handlers of `events` events took `seconds` in all."""
        if events == 0:
            return
        each = max(seconds / events, 1e-6)
        if self._event_seconds is None:
            self._event_seconds = each
        else:
            self._event_seconds += SMOOTHING * (each - self._event_seconds)

    def batch(self, ready: int, free_slots: int) -> int:
        """Return how many events the next transaction may hold."""
        if self._event_seconds is None:
            share = math.ceil(ready / max(1, free_slots))
            return max(1, min(self._batch_size, share))
        return self._within(BATCH_SECONDS / self._event_seconds, 1, self._batch_size)

    def worthwhile(self, ready: int, running: int) -> bool:
        """Whether `ready` events are worth a transaction beside the `running` ones.

        Fast handlers: a few events wait for the transaction in hand, which is short, and share
        the next one; a third beside two is worth its while when it is full. Slow handlers: never
        wait.
        """
        if running == 0 or self._event_seconds is None:
            return True
        full = self.batch(ready, 1)
        return ready >= (full // 4 if running == 1 else full)

    @property
    def prefetch(self) -> int:
        """Return how many messages may be asked for, queued and running, together."""
        least, most = 2 * self._concurrency, 4 * self._batch_size
        if self._event_seconds is None:
            learned = min(4 * self._concurrency, most)
        else:
            wanted = self._concurrency * PREFETCH_SECONDS / self._event_seconds
            learned = self._within(wanted, least, most)
        return max(learned, self._least_prefetch)

    @staticmethod
    def _within(value: float, least: int, most: int) -> int:
        return int(min(max(value, least), max(least, most)))
