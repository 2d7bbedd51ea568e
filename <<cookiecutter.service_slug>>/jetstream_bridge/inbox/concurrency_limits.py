"""How much of the worker the handlers with limits of their own may have.

A limit holds within one process: how many transactions with a handler's events run at a time,
and how many of its events one transaction holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from jetstream_bridge.inbox.handlers import Handler

if TYPE_CHECKING:
    from jetstream_bridge.inbox.delivery import Delivery


class ConcurrencyLimits:
    """The transactions that are running, by handler with limits."""

    def __init__(self) -> None:
        self._running: Counter[Handler] = Counter()

    def share(self) -> TransactionShare:
        """What the next transaction may hold."""
        return TransactionShare(self._running)

    def begin(self, batch: Iterable[Delivery]) -> None:
        self._running.update(_limited(batch))

    def end(self, batch: Iterable[Delivery]) -> None:
        self._running.subtract(_limited(batch))


class TransactionShare:
    """What one transaction, which is being put together, may still take in."""

    def __init__(self, running: Counter[Handler]) -> None:
        self._running = running
        self._taken: Counter[Handler] = Counter()

    def has_room(self, delivery: Delivery) -> bool:
        handler = delivery.handler
        if handler is None or not handler.options.limited:
            return True
        taken = self._taken[handler]
        size, concurrency = handler.options.batch_size, handler.options.concurrency
        if size is not None and taken >= size:
            return False
        return taken > 0 or concurrency is None or self._running[handler] < concurrency

    def take(self, delivery: Delivery) -> bool:
        """Count `delivery` in, if there is room for it."""
        if not self.has_room(delivery):
            return False
        if delivery.handler is not None:
            self._taken[delivery.handler] += 1
        return True


def _limited(batch: Iterable[Delivery]) -> set[Handler]:
    return {d.handler for d in batch if d.handler is not None and d.handler.options.limited}
