"""One event by itself: how it is run, and what becomes of it when that fails.

What failed by itself counts as a try, in the event's row, before anything else is decided. What the
database, NATS, another worker or a stop did counts nothing: the event stays in hand, or is given
back as it came.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from jetstream_bridge.core.cancellation import apart
from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.core.database_faults import Fault, fault_of
from jetstream_bridge.core.database_probe import described
from jetstream_bridge.core.error_report import report
from jetstream_bridge.core.leases import LeaseLostError
from jetstream_bridge.inbox.batch import HandlerRaised, HandlerTransactions, read
from jetstream_bridge.inbox.batch_sizing import BatchSizer
from jetstream_bridge.inbox.delivery import Delivery
from jetstream_bridge.inbox.isolation import HandlerIsolation
from jetstream_bridge.inbox.outage import Outage
from jetstream_bridge.inbox.outcomes import Outcomes
from jetstream_bridge.inbox.reading import Rejection
from jetstream_bridge.inbox.retry_policy import RetryAfter, RetryPolicy

logger = logging.getLogger(__name__)

RACES = 5  # transactions that lose against another one in a row, before the event is held back
LOCKED_PAUSE = 5.0  # seconds at most, twice that with the jitter, before a lock is tried again
RACE_PAUSE = 0.05  # seconds at most, times the number of races lost


class RunResult(Enum):
    """What handling one event by itself came to."""

    DONE = auto()  # acknowledged, or put aside
    AGAIN = auto()  # given back; it will be delivered again
    UNTRIED = auto()  # nothing has happened to it; it stays in hand


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What the worker does at an attempt's word."""

    accepting: Callable[[], bool]
    retry_at: Callable[[Delivery, float], None]  # its followers wait for it, so many seconds
    lost_lease: Callable[[LeaseLostError], None]


class SingleRuns:
    """Runs the events of one worker, and judges what they raise."""

    def __init__(
        self,
        config: BridgeConfig,
        transactions: HandlerTransactions,
        outcomes: Outcomes,
        tries: RetryPolicy,
        batch_sizer: BatchSizer,
        outage: Outage,
        isolation: HandlerIsolation,
        hooks: Hooks,
    ) -> None:
        self._config = config
        self._transactions = transactions
        self._outcomes = outcomes
        self._tries = tries
        self._batch_sizer = batch_sizer
        self._outage = outage
        self._isolation = isolation
        self._hooks = hooks

    # --- running

    async def together(self, batch: list[Delivery]) -> list[list[Delivery]]:
        """Handle `batch` in one transaction; return what is left, in portions, in their order."""
        for lost in range(RACES):
            try:
                readable, unreadable = _sorted_out(batch)
                if readable:
                    async with self._isolation.shared():
                        rest = await self._commit(readable)
                    if rest:
                        return [rest, *_singles(unreadable)]
                return _singles(unreadable)
            except LeaseLostError as error:
                self._hooks.lost_lease(error)
                break
            except Exception as error:  # whatever it is, smaller portions tell whose
                logger.info("a batch of %d is not handled together: %s", len(batch), report(error))
                fault = await self._fault(error)
                if fault is Fault.BUSY:
                    await self._hold_redelivered(batch, error)
                if fault is Fault.EVENT:
                    return split(
                        batch, error.delivery if isinstance(error, HandlerRaised) else None
                    )
                if fault is not Fault.RACE:
                    break
                await _stand_aside(lost)
        return _singles(batch)

    async def _hold_redelivered(self, batch: Sequence[Delivery], error: Exception) -> None:
        """Somebody who had some of these before keeps them locked; the others need not wait.

        To try them one after another would take a lock's time for each. They come back one by
        one instead, at times of their own.
        """
        for delivery in batch:
            if delivery.tries > 1:
                await self._hold(delivery, error, Fault.BUSY)
                delivery.wait = min(delivery.wait, LOCKED_PAUSE) * random.uniform(1.0, 2.0)

    async def one(self, delivery: Delivery) -> RunResult:
        """Handle one event, or put it aside."""
        try:
            if delivery.verdict is not None:
                return await self._dead_letter(delivery, delivery.verdict)
            if delivery.handler is None:
                return await self._unhandled(delivery)
            if self._tries.may_have_run(delivery):
                return await self._looked_up(delivery)
            async with self._isolation.shared():
                return await self._run(delivery)
        except Exception as error:  # of looking up or noting something, so none of the event's
            return await self._hold(delivery, error, await self._fault(error))

    async def _looked_up(self, delivery: Delivery) -> RunResult:
        history = await self._outcomes.history(delivery)
        verdict = self._tries.used_up(delivery, history)
        if verdict is not None and not delivery.begun:
            return await self._dead_letter(delivery, verdict)
        if not self._tries.is_suspect(delivery, history):
            async with self._isolation.shared():
                return await self._run(delivery)
        await self._outcomes.try_claim(delivery)  # nobody stands still while a lock is waited for
        async with self._isolation.alone():
            if not self._hooks.accepting():
                return RunResult.UNTRIED
            logger.info("event %s runs by itself: it may have ended a process", delivery.key)
            await self._outcomes.begun(delivery, history)
            return await self._run(delivery)

    async def _run(self, delivery: Delivery) -> RunResult:
        for lost in range(RACES):
            if not self._hooks.accepting():
                return RunResult.UNTRIED
            outages = self._outage.number
            try:
                read(delivery)
                if delivery.verdict is not None:
                    return await self._dead_letter(delivery, delivery.verdict)
                await self._commit([delivery])
                return RunResult.DONE
            except LeaseLostError as error:
                self._hooks.lost_lease(error)
                return RunResult.UNTRIED
            except Exception as error:  # a handler may raise anything
                fault = await self._fault(error, outages=outages)
                if fault is Fault.EVENT:
                    return await self._failed(delivery, _cause(error))
                if fault is not Fault.RACE or lost == RACES - 1:
                    return await self._hold(delivery, error, fault)
                await _stand_aside(lost)
        return RunResult.UNTRIED

    async def _commit(self, batch: Sequence[Delivery]) -> list[Delivery]:
        """Handle `batch` in one transaction; return what it did not come to."""
        handled = await apart(self._transactions.run(batch))
        self._outage.over()
        self._batch_sizer.measured(len(handled.processed), handled.seconds)
        await self._outcomes.handled(handled)
        return handled.rest

    # --- whose fault

    async def _fault(self, error: Exception, *, outages: int | None = None) -> Fault:
        """Return whose fault `error` is. An outage is noticed here; nothing stays unclear.

        `outages`: how many there had been when the event began. One that came and went since may
        have been the cause, and the question to the database comes too late to tell.
        """
        raised = error if isinstance(error, HandlerRaised) else None
        fault = fault_of(_cause(error))
        if fault is Fault.AWAY:
            self._outage.notice(f"the database takes no write: {described(_cause(error))}")
            return fault
        if fault is Fault.UNCLEAR:
            fault = await self._ask(ours=raised is None or raised.written)
        elif fault is Fault.SCHEMA:
            fault = await self._ask_for_migrations(ours=raised is None)
        else:
            return fault
        if fault is Fault.EVENT and outages not in (None, self._outage.number):
            return Fault.BUSY
        return fault

    async def _ask(self, *, ours: bool) -> Fault:
        """`ours`: the database's own words, so it was the database, be it well again or not."""
        problem = await self._outage.ask()
        if problem is not None:
            self._outage.notice(problem)
            return Fault.AWAY
        return Fault.BUSY if ours else Fault.EVENT

    async def _ask_for_migrations(self, *, ours: bool) -> Fault:
        problem = await self._outage.missing()
        if problem is None and ours:
            problem = "the database lacks a table or a column of the bridge; apply the migrations"
        if problem is None:
            return Fault.EVENT
        self._outage.notice(problem)
        return Fault.AWAY

    async def _hold(self, delivery: Delivery, error: Exception, fault: Fault) -> RunResult:
        """Keep an event that is not to blame; its time comes when the outage ends, or soon."""
        if fault is not Fault.AWAY:
            delivery.holds += 1
            delivery.wait = self._tries.default_delay(delivery.holds)
            logger.warning(
                "event %s waits %.1f s, which counts as no try: %s",
                delivery.key,
                delivery.wait,
                report(_cause(error)),
            )
        return RunResult.UNTRIED

    # --- what becomes of it

    async def _failed(self, delivery: Delivery, error: Exception) -> RunResult:
        if isinstance(error.__cause__, KeyboardInterrupt) and not self._hooks.accepting():
            raise error.__cause__  # a second Ctrl-C, while the worker stops: it is for the process
        failures = await self._count(delivery, error)
        if failures is None:
            return RunResult.UNTRIED
        decision = self._tries.after(delivery, error, failures)
        if isinstance(decision, Rejection):
            return await self._dead_letter(delivery, decision)
        return await self._retry(delivery, error, decision)

    async def _count(self, delivery: Delivery, error: Exception) -> int | None:
        """Return how often the event has failed; None while the database cannot note it."""
        for lost in range(RACES):
            try:
                failures = await self._outcomes.count_failure(delivery, error)
                self._outage.over()
                return delivery.tries if failures is None else failures
            except Exception as fault:
                kind = await self._fault(fault)
                if kind is Fault.AWAY:
                    return None
                if kind is Fault.RACE and lost < RACES - 1:
                    await _stand_aside(lost)
                    continue
                # It goes on all the same: the server's count is the best there is.
                logger.warning("the failure of %s is not recorded: %s", delivery.key, report(fault))
                return delivery.tries
        return delivery.tries

    async def _retry(self, delivery: Delivery, error: Exception, again: RetryAfter) -> RunResult:
        self._hooks.retry_at(delivery, again.delay)
        await self._outcomes.failed(delivery, error, again.delay)
        return RunResult.AGAIN

    async def _dead_letter(self, delivery: Delivery, verdict: Rejection) -> RunResult:
        """Put an event aside for good. If that fails, it is delivered again and ends here."""
        try:
            await self._outcomes.dead_letter(delivery, verdict)
            return RunResult.DONE
        except Exception as error:  # nothing may be lost, whatever failed
            logger.error("event %s could not be put aside: %s", delivery.key, report(error))
            if await self._fault(error) is Fault.AWAY:
                return RunResult.UNTRIED
            await self._outcomes.nak(delivery, delay=self._tries.default_delay(delivery.tries))
            return RunResult.AGAIN

    async def _unhandled(self, delivery: Delivery) -> RunResult:
        if self._config.unhandled == "dead_letter":
            error = LookupError(f"no handler is registered for {delivery.event_type!r}")
            return await self._dead_letter(delivery, Rejection("no_handler", error))
        await self._outcomes.ignored(delivery)
        return RunResult.DONE


def split(batch: list[Delivery], guilty: Delivery | None) -> list[list[Delivery]]:
    """Return the portions to try next: around the event that failed, or else halves.

    So one poison event costs its neighbours a few transactions, however many they are.
    """
    if guilty is None:
        middle = len(batch) // 2
        return [batch[:middle], batch[middle:]]
    place = batch.index(guilty)
    portions = [batch[:place], [guilty], batch[place + 1 :]]
    return [portion for portion in portions if portion]


def _singles(batch: Sequence[Delivery]) -> list[list[Delivery]]:
    return [[delivery] for delivery in batch]


def _sorted_out(batch: Sequence[Delivery]) -> tuple[list[Delivery], list[Delivery]]:
    """Read each of `batch`; return those to handle, and those that go to the dead letters."""
    for delivery in batch:
        read(delivery)
    return [d for d in batch if d.verdict is None], [d for d in batch if d.verdict is not None]


def _cause(error: Exception) -> Exception:
    return error.error if isinstance(error, HandlerRaised) else error


async def _stand_aside(lost: int) -> None:
    """Let the other transaction go first; two that meet again and again do so at random times."""
    await asyncio.sleep(random.uniform(0, RACE_PAUSE * (lost + 1)))
