"""Lists of events that wait for more, and what may stand in one transaction with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.inbox.delivery import Delivery
from jetstream_bridge.inbox.handlers import Handler


class Filling:
    """Decides while one batch is put together. `until`: when a list that waits is to go."""

    def __init__(self, runnable: Callable[[Handler, int], Sequence[Delivery]]) -> None:
        """`runnable` finds what could run of a handler, as many as are enough."""
        self._runnable = runnable
        self._waits: dict[Handler, bool] = {}
        self.until = math.inf

    def may_join(self, delivery: Delivery, batch: Sequence[Delivery]) -> bool:
        """Whether `delivery` may begin a batch, or go on with the one that has begun."""
        handler = delivery.batch_handler
        if batch:
            return handler is batch[0].batch_handler
        if handler is None or not handler.options.within:
            return True
        if handler not in self._waits:
            self._waits[handler] = self._is_to_wait(handler)
        return not self._waits[handler]

    def _is_to_wait(self, handler: Handler) -> bool:
        full = handler.options.batch or 1
        found = self._runnable(handler, full)
        if not found or len(found) >= full:
            return False
        goes_at = min(delivery.arrived for delivery in found) + handler.options.within
        if loop_time() >= goes_at:
            return False
        self.until = min(self.until, goes_at)
        return True
