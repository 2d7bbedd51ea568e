"""What becomes of an event whose handler failed: another try, or the dead letters.

The handler's own word comes first (`Unrecoverable`, `Retry`), then the limit of tries, then the
retry strategy: the registration's, the service's, or the setting BACKOFF. A try is a run that
failed by itself; the server's count of deliveries only tells who may have ended a process.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.core.delays import Backoff, RetryStrategy
from jetstream_bridge.core.errors import Retry
from jetstream_bridge.inbox.delivery import Delivery
from jetstream_bridge.inbox.reading import Rejection
from jetstream_bridge.inbox.run_counts import RunHistory

logger = logging.getLogger(__name__)

# Deliveries beyond the failures that say nothing yet: a worker that was stopped, or that died of
# something else, gives back all that it held.
ORDINARY = 2
DEATHS = 2  # runs by itself that did not end, at least: one may have been anybody's doing
_LONGEST = 30 * 86400.0  # seconds; a delay beyond it is a mistake


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Another try, `delay` seconds from now."""

    delay: float


class FailedBeforeError(Exception):
    """Its last try failed before, and its dead letter could not be written then."""


class ProcessEndedError(Exception):
    """The process died each time that its handler ran alone."""


class RetryPolicy:
    """Decides on the next try of each event."""

    def __init__(self, config: BridgeConfig, retry: RetryStrategy | None) -> None:
        self._max_deliver = config.max_deliver
        self._unrecoverable = config.unrecoverable
        self._backoff = Backoff(config.backoff)
        self._retry = retry or self._backoff

    def may_have_run(self, delivery: Delivery) -> bool:
        """Whether its runs so far have to be looked up: they may be used up, or tell of crashes.

        One delivery more than its failures is ordinary: a worker was stopped or died with it.
        """
        return delivery.tries > min(self.limit(delivery), ORDINARY)

    def is_suspect(self, delivery: Delivery, history: RunHistory) -> bool:
        """Whether it was delivered more often than its failures explain."""
        return delivery.tries - 1 - history.failures >= ORDINARY

    def used_up(self, delivery: Delivery, history: RunHistory) -> Rejection | None:
        """Say so if nothing but the dead letters is left to the event."""
        if history.failures >= self.limit(delivery):
            return Rejection("max_deliver_exceeded", FailedBeforeError(history.error or "no error"))
        if history.unfinished >= max(self.limit(delivery), DEATHS):
            return Rejection("max_deliver_exceeded", _ended_the_process(history.unfinished))
        return None

    def after(self, delivery: Delivery, error: Exception, failures: int) -> RetryAfter | Rejection:
        """Decide on an event whose handler raised `error`, for the `failures`-th time."""
        if isinstance(error, self._unrecoverable):
            return Rejection("unrecoverable", error)
        if failures >= self.limit(delivery):
            return Rejection("max_deliver_exceeded", error)
        if isinstance(error, Retry) and error.delay is not None:
            return RetryAfter(self._usable(error.delay, failures))
        delay = self._strategys(delivery, failures)
        return Rejection("max_deliver_exceeded", error) if delay is None else RetryAfter(delay)

    def default_delay(self, attempt: int) -> float:
        """The pause after a failure that was not the event's."""
        return self._backoff.delay(attempt)

    def limit(self, delivery: Delivery) -> int:
        """How often the event may be tried."""
        own = delivery.handler.options.max_deliver if delivery.handler is not None else None
        return self._max_deliver if own is None else own

    def _strategys(self, delivery: Delivery, failures: int) -> float | None:
        own = delivery.handler.options.retry if delivery.handler is not None else None
        strategy = own or self._retry
        try:
            delay = strategy.delay(failures)
            return None if delay is None else self._usable(delay, failures)
        except Exception:  # a service's own code; the event is tried again all the same
            logger.exception("the retry strategy %r failed; BACKOFF decides", strategy)
            return self._backoff.delay(failures)

    def _usable(self, delay: float, failures: int) -> float:
        if 0 <= delay < math.inf:
            return min(delay, _LONGEST)
        logger.error("a delay of %r s is none; BACKOFF decides", delay)
        return self._backoff.delay(failures)


def _ended_the_process(times: int) -> Exception:
    return ProcessEndedError(
        f"run {times} times with no other event beside it, and never finished: it ends its process"
    )
