"""The worker of one durable consumer: every event takes effect once, and none is dropped.

An event leaves the stream only after its effect is committed, or after its dead letter is stored
(or parked in the inbox). Everything else ends in another delivery. A database that is away is
nobody's failure: the worker holds what it has until it is back.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence

from nats.aio.msg import Msg

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.core.leases import LeaseLostError
from jetstream_bridge.inbox.batch import HandlerTransactions
from jetstream_bridge.inbox.batch_sizing import BatchSizer
from jetstream_bridge.inbox.concurrency_limits import ConcurrencyLimits
from jetstream_bridge.inbox.deliveries import Deliveries
from jetstream_bridge.inbox.delivery import Delivery
from jetstream_bridge.inbox.durable import Durable
from jetstream_bridge.inbox.isolation import HandlerIsolation
from jetstream_bridge.inbox.order_check import EVERY, OrderCheck, Statuses
from jetstream_bridge.inbox.outage import Outage
from jetstream_bridge.inbox.outcomes import Outcomes
from jetstream_bridge.inbox.outstanding import DurableView
from jetstream_bridge.inbox.portions import in_portions
from jetstream_bridge.inbox.reading import Reader
from jetstream_bridge.inbox.retry_policy import RetryPolicy
from jetstream_bridge.inbox.single_run import Hooks, SingleRuns
from jetstream_bridge.nats.connection import Connection
from jetstream_bridge.nats.pull_loop import PullLoop
from jetstream_bridge.nats.pull_requests import PullCapacity

logger = logging.getLogger(__name__)

TICK = 0.5  # seconds at most between two looks at the clock
HAND_BACK_AFTER = 1.0  # seconds for a handler to end once it was cancelled


class Worker:
    """Handles the events of one durable until it is told to stop."""

    def __init__(
        self,
        durable: Durable,
        config: BridgeConfig,
        connection: Connection,
        reader: Reader,
        transactions: HandlerTransactions,
        outcomes: Outcomes,
        tries: RetryPolicy,
        *,
        outage: Outage,
        isolation: HandlerIsolation,
        view: DurableView | None,
        statuses: Statuses,
        alone: bool,
        concurrency_limits: ConcurrencyLimits | None = None,
        largest_list: int = 0,
    ) -> None:
        self.durable = durable
        self._config = config
        self._reader = reader
        self._outcomes = outcomes
        self._tries = tries
        self._batch_sizer = BatchSizer(
            batch_size=config.worker_batch_size,
            concurrency=config.worker_concurrency,
            largest_list=largest_list,
        )
        self._hand = Deliveries(concurrency_limits)
        self._watch = transactions.watch
        self._runs = SingleRuns(
            config,
            transactions,
            outcomes,
            tries,
            self._batch_sizer,
            outage,
            isolation,
            Hooks(
                accepting=lambda: self._accepting,
                retry_at=self._retry_at,
                lost_lease=self._lost_lease,
            ),
        )
        self._running: set[asyncio.Task[None]] = set()
        self._dispatching = False
        self._filled: asyncio.TimerHandle | None = None  # when a list has been filled long enough
        self._accepting = True
        self._stopped = asyncio.Event()
        self._outage = outage
        self._holding: dict[str, Delivery] = {}  # held back for a while, by resource
        self._order_check = OrderCheck(
            view, self._hand, statuses, ack_wait=durable.spec.ack_wait, alone=alone
        )
        self.failure: BaseException | None = None  # of a batch that died of a fault of our own
        self.lost_lease = asyncio.Event()  # then it hands out nothing more, and has to be stopped
        self._pull = PullLoop(
            connection,
            stream=durable.stream,
            durable=durable.name,
            deliver=self._arrived,
            room=self._room,
            ensure=self._ensure,
        )
        self._made: str | None = None
        outcomes.line.attach(sure=lambda: self._pull.sure, again=self._take_back)

    @property
    def problem(self) -> str | None:
        """Why nothing is being handled, for readiness."""
        problem = self._outage.problem or self._pull.problem
        return problem or self._watch.problem

    @property
    def running(self) -> list[str]:
        """A line for each handler that runs, the longest first."""
        return self._watch.lines()

    async def run(self) -> None:
        """Pull and handle until `stop`. Owns the heartbeat beside the pull loop."""
        async with asyncio.TaskGroup() as tasks:
            name = self.durable.name
            heart = tasks.create_task(self._keep_alive(), name=f"heartbeat {name}")
            watch = tasks.create_task(self._outage.watch(self._resume), name=f"outage {name}")
            order_check = tasks.create_task(
                self._order_check.run(self._dispatch_soon), name=f"order check {name}"
            )
            try:
                await self._pull.run()
                await self._stopped.wait()  # what still runs needs its heartbeats
            finally:
                heart.cancel()
                watch.cancel()
                order_check.cancel()
                await self._outage.close()

    async def stop(self, grace: float) -> None:
        """Fetch nothing more, finish what runs within `grace` seconds, hand back the rest."""
        self._accepting = False
        await self._pull.stop()
        queued, later = self._hand.clear()
        await self._hand_back(queued)
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=grace)
            for task in late:
                logger.warning("a handler did not finish within %.0f s; it is stopped", grace)
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=HAND_BACK_AFTER)
        # After what they follow, so that nobody gets them first.
        await self._hand_back([*self._hand, *later])
        if self._pull.sure:
            await self._outcomes.line.settle()
        self._stopped.set()

    async def _hand_back(self, deliveries: Sequence[Delivery], *, delay: float = 0.0) -> None:
        """Let another worker have these now, and not when `ack_wait` is over."""
        for delivery in deliveries:
            if delivery.begun:
                await self._outcomes.not_begun(delivery)
            await self._outcomes.nak(delivery, delay=delay)

    def _room(self) -> PullCapacity:
        if not self._accepting or self._outage.problem is not None:
            return PullCapacity(0, 0)
        if self._order_check.quiet:
            return PullCapacity(0, 0)
        # Followers of an event that is to come may fill all the room. It comes before what is new,
        # so that one message, asked for when it is due, is the one that they wait for.
        now = loop_time()
        return PullCapacity(
            messages=max(self._batch_sizer.prefetch - self._hand.active, self._order_check.missing),
            bytes=self._config.worker_max_bytes - self._hand.bytes,
            takes_any=not self._hand.bytes
            or self._hand.awaits(now)
            or self._order_check.asks_for_one(now),
        )

    # --- taking in and handing out

    async def _ensure(self) -> None:
        """Make sure of the durable, and notice when its stream is another one than before."""
        await self.durable.ensure()
        made = self.durable.made()
        if self._made is not None and made != self._made:
            logger.warning(
                "stream %s was made anew; %d events of the old one are in hand and will be handled",
                self.durable.stream,
                self._hand.made_anew(),
            )
            self._dispatch_soon()
        self._made = made
        await self._order_check.look()

    def _take_back(self, delivery: Delivery) -> None:
        """Try an event again that its stream cannot deliver again."""
        self._hand.add(delivery)
        self._dispatch_soon()

    def _arrived(self, msg: Msg) -> None:
        delivery = Delivery(msg, self._reader)
        self._order_check.arrived(delivery, delivery.count)
        self._hand.add(delivery)
        self._dispatch_soon()

    def _dispatch_soon(self) -> None:
        """Once for all that arrives together, so that it shares transactions."""
        if not self._dispatching:
            self._dispatching = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatching = False
        while self._may_begin and self._hand.runnable:
            free = self._config.worker_concurrency - len(self._running)
            if free <= 0 or not self._batch_sizer.worthwhile(self._hand.queued, len(self._running)):
                break
            batch = self._hand.take(
                self._batch_size(free), alone=self._runs_alone, lists=self._outage.problem is None
            )
            if not batch:  # handlers at their limits (one that finishes asks again), or filling
                self._dispatch_at(self._hand.filled_at)
                break
            task = asyncio.create_task(self._handle(batch), name=f"batch {self.durable.name}")
            self._running.add(task)
            task.add_done_callback(self._finished)
        self._pull.poke()

    def _dispatch_at(self, moment: float) -> None:
        """A list that is being filled goes at `moment`, however few there are."""
        if self._filled is not None:
            self._filled.cancel()
        self._filled = None
        if moment < math.inf:
            delay = max(0.0, moment - loop_time())
            self._filled = asyncio.get_running_loop().call_later(delay, self._dispatch_soon)

    @property
    def _may_begin(self) -> bool:
        """While the database is in doubt, one event shows whether it works again."""
        if self._order_check.pauses:
            return False
        if self._outage.problem is None:
            return self._accepting
        return self._accepting and self._outage.trial and not self._running

    def _batch_size(self, free: int) -> int:
        in_doubt = self._outage.problem is not None
        return 1 if in_doubt else self._batch_sizer.batch(self._hand.queued, free)

    def _resume(self) -> bool:
        """The database takes a write: go on, and say whether there is anything to try."""
        self._dispatch_soon()
        return any(True for _ in self._hand)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.failure = task.exception()
            logger.error("a batch died", exc_info=self.failure)
        self._dispatch_soon()

    def _runs_alone(self, delivery: Delivery) -> bool:
        """Needs a transaction of its own, or none at all."""
        handler = delivery.handler
        return (
            delivery.verdict is not None
            or handler is None
            or handler.options.isolated
            or self._tries.may_have_run(delivery)
        )

    # --- handling

    async def _handle(self, batch: list[Delivery]) -> None:
        unhandled: Sequence[Delivery] = batch
        given_back_after = 0.0
        try:
            unhandled = await in_portions(batch, self._runs, self._goes_on)
        except BaseException:  # a fault of this module's: not at once again, or it would spin
            given_back_after = self._tries.default_delay(1) if self._accepting else 0.0
            raise
        finally:
            keep = self._accepting and not given_back_after
            self._hand.finish(batch, unhandled=unhandled if keep else ())
            if keep:
                self._hold(unhandled)
            else:
                await self._hand_back(unhandled, delay=given_back_after)

    def _goes_on(self) -> bool:
        return self._accepting and not self._outage.holds_back

    def _lost_lease(self, error: LeaseLostError) -> None:
        """Another worker has the lease: what is in hand is its business now."""
        logger.warning("%s", error)
        self._accepting = False
        self.lost_lease.set()

    # --- what has to wait

    def _retry_at(self, delivery: Delivery, delay: float) -> None:
        """It comes again from the server, after `delay` seconds."""
        due = loop_time() + delay
        patience = 2 * self.durable.spec.ack_wait + EVERY
        self._holding.pop(delivery.resource, None)
        self._hand.block(delivery, due=due + EVERY, until=due + patience)

    def _hold(self, deliveries: Sequence[Delivery]) -> None:
        """Those that found something busy stay in hand, and so do their followers."""
        for delivery in deliveries:
            if not delivery.wait:
                continue
            self._holding[delivery.resource] = delivery
            self._hand.block(delivery, due=math.inf, until=math.inf)
            asyncio.get_running_loop().call_later(delivery.wait, self._release, delivery)
            delivery.wait = 0.0

    def _release(self, delivery: Delivery) -> None:
        if self._holding.get(delivery.resource) is delivery:
            del self._holding[delivery.resource]
            self._hand.unblock(delivery.resource)
            self._dispatch_soon()

    # --- what happens by the clock

    async def _keep_alive(self) -> None:
        """Tell the server about what is held long, and look after blocks."""
        third = self.durable.spec.ack_wait / 3
        pause = min(third / 2, TICK)
        while True:
            await asyncio.sleep(pause)
            self._watch.look()
            if self._pull.sure:
                await self._outcomes.line.settle()
            now = loop_time()
            for delivery in [d for d in self._hand if now - d.touched >= third]:
                delivery.touched = now
                await self._outcomes.in_progress(delivery)
            if await self._order_check.check():
                self._dispatch_soon()
