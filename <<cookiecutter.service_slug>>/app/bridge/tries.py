"""What becomes of an event whose handler failed: another try, or the dead letters.

The handler's own word comes first (`Unrecoverable`, `Retry`), then the limit of tries, then the
retry strategy: the registration's, the service's, or the setting BACKOFF.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from .config import BridgeConfig
from .deliveries import Delivery
from .errors import Retry
from .reading import Verdict
from .retry import Backoff, RetryStrategy

logger = logging.getLogger(__name__)

_LONGEST = 30 * 86400.0  # seconds; a delay beyond it is a mistake


@dataclass(frozen=True, slots=True)
class Again:
    """Another try, `delay` seconds from now."""

    delay: float


class Tries:
    """Decides on the next try of each event."""

    def __init__(self, config: BridgeConfig, retry: RetryStrategy | None) -> None:
        self._max_deliver = config.max_deliver
        self._unrecoverable = config.unrecoverable
        self._backoff = Backoff(config.backoff)
        self._retry = retry or self._backoff

    def exhausted(self, delivery: Delivery) -> bool:
        """Whether the event was delivered more often than it may be tried."""
        return delivery.tries > self.limit(delivery)

    def is_last(self, delivery: Delivery) -> bool:
        """Whether nothing but the dead letters comes after this try."""
        return delivery.tries >= self.limit(delivery)

    def too_often(self, delivery: Delivery) -> Verdict:
        return Verdict(
            "max_deliver_exceeded",
            RuntimeError(
                f"delivered {delivery.tries} times and never finished; "
                "the process may have died in its handler each time"
            ),
        )

    def after(self, delivery: Delivery, error: Exception) -> Again | Verdict:
        """Decide on an event whose handler raised `error`."""
        if isinstance(error, self._unrecoverable):
            return Verdict("unrecoverable", error)
        if delivery.tries >= self.limit(delivery):
            return Verdict("max_deliver_exceeded", error)
        if isinstance(error, Retry) and error.delay is not None:
            return Again(self._usable(error.delay, delivery))
        delay = self._strategys(delivery)
        return Verdict("max_deliver_exceeded", error) if delay is None else Again(delay)

    def default_delay(self, attempt: int) -> float:
        """The pause after a failure that was not the event's."""
        return self._backoff.delay(attempt)

    def limit(self, delivery: Delivery) -> int:
        """How often the event may be tried."""
        own = delivery.handler.options.max_deliver if delivery.handler is not None else None
        return self._max_deliver if own is None else own

    def _strategys(self, delivery: Delivery) -> float | None:
        own = delivery.handler.options.retry if delivery.handler is not None else None
        strategy = own or self._retry
        try:
            delay = strategy.delay(delivery.tries)
            return None if delay is None else self._usable(delay, delivery)
        except Exception:  # a service's own code; the event is tried again all the same
            logger.exception("the retry strategy %r failed; BACKOFF decides", strategy)
            return self._backoff.delay(delivery.tries)

    def _usable(self, delay: float, delivery: Delivery) -> float:
        if 0 <= delay < math.inf:
            return min(delay, _LONGEST)
        logger.error("a delay of %r s is none; BACKOFF decides", delay)
        return self._backoff.delay(delivery.tries)
