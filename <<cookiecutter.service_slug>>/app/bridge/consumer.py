"""The worker of one durable consumer: every event takes effect once, and none is dropped.

An event leaves the stream only after its effect is committed, or after its dead letter is stored
(or parked in the inbox). Everything else ends in another delivery. A database that is away is
nobody's failure: the worker holds what it has until it is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlmodel.ext.asyncio.session import AsyncSession

from .batch import LeaseLostError, Transactions
from .clock import loop_time
from .config import BridgeConfig
from .connection import Connection
from .deliveries import Deliveries, Delivery
from .durable_spec import DurableSpec
from .errors import BridgeError
from .outcomes import Outcomes
from .pace import Pace
from .pull import PullLoop
from .reading import Reader, Verdict
from .slots import Slots
from .tries import Again, Tries

logger = logging.getLogger(__name__)

DATABASE_PROBE_LIMIT = 5.0  # seconds
DATABASE_PAUSE = 0.5  # seconds between two looks for a database that is away
FLOOR_EVERY = 1.0  # seconds between two looks at the consumer's ack floor


class Step(Enum):
    """What handling one event by itself came to."""

    DONE = auto()  # acknowledged, or put aside
    AGAIN = auto()  # given back; it will be delivered again
    UNTRIED = auto()  # nothing has happened to it; it stays in hand


@dataclass(frozen=True, slots=True)
class Durable:
    """Which consumer this is, and how to make sure that it is there."""

    spec: DurableSpec
    stream: str
    ensure: Callable[[], Awaitable[object]]
    ack_floor: Callable[[], Awaitable[int]]

    @property
    def name(self) -> str:
        return self.spec.name


class Worker:
    """Handles the events of one durable until it is told to stop."""

    def __init__(
        self,
        durable: Durable,
        config: BridgeConfig,
        connection: Connection,
        sessions: async_sessionmaker[AsyncSession],
        reader: Reader,
        transactions: Transactions,
        outcomes: Outcomes,
        tries: Tries,
        slots: Slots | None = None,
    ) -> None:
        self.durable = durable
        self._config = config
        self._sessions = sessions
        self._reader = reader
        self._transactions = transactions
        self._outcomes = outcomes
        self._tries = tries
        self._pace = Pace(
            batch_size=config.worker_batch_size, concurrency=config.worker_concurrency
        )
        self._hand = Deliveries(slots)
        self._running: set[asyncio.Task[None]] = set()
        self._dispatching = False
        self._accepting = True
        self._stopped = asyncio.Event()
        self._database_away = False
        self._floor_at = 0.0
        self.failure: BaseException | None = None  # of a batch that died of a fault of our own
        self.lost_lease = False  # then it hands out nothing more, and has to be stopped
        self._pull = PullLoop(
            connection,
            stream=durable.stream,
            durable=durable.name,
            deliver=self._arrived,
            room=self._room,
            ensure=durable.ensure,
        )

    @property
    def problem(self) -> str | None:
        """Why nothing is being handled, for readiness."""
        if self._database_away:
            return "the database does not answer"
        return self._pull.problem

    async def run(self) -> None:
        """Pull and handle until `stop`. Owns the heartbeat beside the pull loop."""
        async with asyncio.TaskGroup() as tasks:
            heart = tasks.create_task(self._keep_alive(), name=f"heartbeat {self.durable.name}")
            await self._pull.run()
            await self._stopped.wait()  # what still runs needs its heartbeats
            heart.cancel()

    async def stop(self, grace: float) -> None:
        """Fetch nothing more, finish what runs within `grace` seconds, hand back the rest."""
        self._accepting = False
        await self._pull.stop()
        await self._hand_back(self._hand.clear())
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=grace)
            for task in late:
                logger.warning("a handler did not finish within %.0f s; it is stopped", grace)
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1.0)
        await self._hand_back(list(self._hand))
        self._stopped.set()

    async def _hand_back(self, deliveries: Sequence[Delivery], *, delay: float = 0.0) -> None:
        """Let another worker have these now, and not when `ack_wait` is over."""
        for delivery in deliveries:
            await self._outcomes.nak(delivery, delay=delay)

    def _room(self) -> int:
        if not self._accepting or self._database_away:
            return 0
        return self._pace.prefetch - self._hand.active

    # --- taking in and handing out

    def _arrived(self, msg: Msg) -> None:
        self._hand.add(Delivery(msg, self._reader))
        self._dispatch_soon()

    def _dispatch_soon(self) -> None:
        """Once for all that arrives together, so that it shares transactions."""
        if not self._dispatching:
            self._dispatching = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatching = False
        while self._accepting and not self._database_away and self._hand.runnable:
            free = self._config.worker_concurrency - len(self._running)
            if free <= 0 or not self._pace.worthwhile(self._hand.queued, len(self._running)):
                break
            batch = self._hand.take(
                self._pace.batch(self._hand.queued, free), alone=self._runs_alone
            )
            if not batch:  # handlers at their limits; one that finishes asks again
                break
            task = asyncio.create_task(self._handle(batch), name=f"batch {self.durable.name}")
            self._running.add(task)
            task.add_done_callback(self._finished)
        self._pull.poke()

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
            or self._tries.exhausted(delivery)
            or self._tries.is_last(delivery)
        )

    # --- handling

    async def _handle(self, batch: list[Delivery]) -> None:
        unhandled: Sequence[Delivery] = batch
        given_back_after = 0.0
        try:
            unhandled = await self._handle_all(batch)
        except Exception:  # a fault of this module's: not at once again, or it would spin
            given_back_after = self._tries.default_delay(1)
            raise
        finally:
            keep = self._accepting and not given_back_after
            self._hand.finish(batch, unhandled=unhandled if keep else ())
            if not keep:
                await self._hand_back(unhandled, delay=given_back_after)

    async def _handle_all(self, batch: list[Delivery]) -> Sequence[Delivery]:
        """Handle `batch`, together if possible; return what must wait and was not tried."""
        if len(batch) > 1:
            try:
                await self._commit(batch)
                return ()
            except LeaseLostError as error:
                self._lost_lease(error)
                return batch
            except Exception as error:  # whatever it is, one by one tells whose
                logger.info("a batch of %d runs one by one: %r", len(batch), error)
                if await self._database_is_away(error):
                    return batch
        return await self._one_by_one(batch)

    async def _one_by_one(self, batch: list[Delivery]) -> Sequence[Delivery]:
        stopped: set[str] = set()  # resources whose earlier event has to come first
        unhandled: list[Delivery] = []
        for position, delivery in enumerate(batch):
            if self._database_away or not self._accepting:
                return [*unhandled, *batch[position:]]
            if delivery.resource in stopped:
                unhandled.append(delivery)
                continue
            step = await self._handle_one(delivery)
            if step is not Step.DONE:
                stopped.add(delivery.resource)
            if step is Step.UNTRIED:
                unhandled.append(delivery)
        return unhandled

    async def _commit(self, batch: Sequence[Delivery]) -> None:
        handled = await self._transactions.run(batch)
        self._pace.measured(len(handled.processed), handled.seconds)
        await self._outcomes.handled(handled)

    async def _handle_one(self, delivery: Delivery) -> Step:
        if delivery.verdict is not None:
            return await self._dead_letter(delivery, delivery.verdict)
        try:
            if self._tries.exhausted(delivery) and await self._was_begun(delivery):
                return await self._dead_letter(delivery, self._tries.too_often(delivery))
            if delivery.handler is None:
                return await self._unhandled(delivery)
            if self._tries.is_last(delivery):
                await self._outcomes.begun(delivery)
            await self._commit([delivery])
            return Step.DONE
        except LeaseLostError as error:
            self._lost_lease(error)
            if self._tries.is_last(delivery):
                await self._outcomes.not_begun(delivery)
            return Step.UNTRIED
        except Exception as error:  # a handler may raise anything
            return await self._failed(delivery, error)

    async def _was_begun(self, delivery: Delivery) -> bool:
        """Tell the event that ends the process from those that it was only held beside."""
        return await self._outcomes.was_begun(delivery, tries=self._tries.limit(delivery))

    def _lost_lease(self, error: LeaseLostError) -> None:
        """Another worker has the lease: what is in hand is its business now."""
        logger.warning("%s", error)
        self._accepting = False
        self.lost_lease = True

    async def _failed(self, delivery: Delivery, error: Exception) -> Step:
        if await self._database_is_away(error):
            return Step.UNTRIED
        decision = self._tries.after(delivery, error)
        if isinstance(decision, Verdict):
            return await self._dead_letter(delivery, decision)
        await self._retry(delivery, error, decision)
        return Step.AGAIN

    async def _retry(self, delivery: Delivery, error: Exception, again: Again) -> None:
        due = loop_time() + again.delay
        patience = 2 * self.durable.spec.ack_wait + FLOOR_EVERY
        self._hand.block(delivery, due=due + FLOOR_EVERY, until=due + patience)
        await self._outcomes.failed(delivery, error, again.delay)

    async def _dead_letter(self, delivery: Delivery, verdict: Verdict) -> Step:
        """Put an event aside for good. If that fails, it is delivered again and ends here."""
        try:
            await self._outcomes.dead_letter(delivery, verdict)
            return Step.DONE
        except Exception as error:  # nothing may be lost, whatever failed
            logger.error("event %s could not be put aside: %s", delivery.key, error)
            if await self._database_is_away(error):
                return Step.UNTRIED
            await self._outcomes.nak(delivery, delay=self._tries.default_delay(delivery.tries))
            return Step.AGAIN

    async def _unhandled(self, delivery: Delivery) -> Step:
        if self._config.unhandled == "dead_letter":
            error = LookupError(f"no handler is registered for {delivery.event_type!r}")
            return await self._dead_letter(delivery, Verdict("no_handler", error))
        await self._outcomes.ignored(delivery)
        return Step.DONE

    # --- the database

    async def _database_is_away(self, error: BaseException) -> bool:
        """Tell a fault of the event from a database that does not answer, by asking it."""
        if self._database_away:
            return True
        if not isinstance(error, SQLAlchemyError | OSError | TimeoutError):
            return False
        if await self._database_answers():
            return False
        self._database_away = True
        logger.warning("the database does not answer; events wait: %s", type(error).__name__)
        return True

    async def _database_answers(self) -> bool:
        try:
            async with asyncio.timeout(DATABASE_PROBE_LIMIT), self._sessions() as session:
                await (await session.connection()).execute(text("SELECT 1"))
            return True
        except (SQLAlchemyError, OSError, TimeoutError):
            return False

    # --- what happens by the clock

    async def _keep_alive(self) -> None:
        """Tell the server about what is held long, look after blocks and the database."""
        third = self.durable.spec.ack_wait / 3
        pause = min(third / 2, DATABASE_PAUSE)
        while True:
            await asyncio.sleep(pause)
            if self._database_away and await self._database_answers():
                logger.info("the database answers again")
                self._database_away = False
                self._dispatch_soon()
            now = loop_time()
            for delivery in [d for d in self._hand if now - d.touched >= third]:
                delivery.touched = now
                await self._outcomes.in_progress(delivery)
            await self._check_blocks(now)

    async def _check_blocks(self, now: float) -> None:
        """An awaited event may have gone to another worker: then its followers go on."""
        overdue = self._hand.overdue(now)
        if not overdue or now < self._floor_at:
            return
        self._floor_at = now + FLOOR_EVERY
        try:
            floor = await self.durable.ack_floor()
        except (BridgeError, NatsError, OSError, TimeoutError) as error:
            logger.debug("ack floor of %s is unknown: %s", self.durable.name, error)
            floor = 0
        for resource, seq, give_up in overdue:
            if floor >= seq or give_up:
                self._hand.unblock(resource)
        self._dispatch_soon()
