"""The relay: takes committed events from the outbox and puts them into the stream.

A row is `sent` only after the expected stream acknowledged it. An outage burns nothing: the
relay stops, probes, and goes on where it was. Only what concerns an event itself counts as one
of its attempts; while it waits for the next one, the later events of its resource wait with it.

While there is much to send, two claims are at work at once: the database reads and writes for one
of them while the events of the other one are on their way. They have different lanes, so different
resources, and each its own note.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial

from nats.errors import Error as NatsError

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.database_faults import DATABASE_ERRORS
from jetstream_bridge.core.errors import BridgeError
from jetstream_bridge.core.tasks import happens
from jetstream_bridge.nats.connection import Connection, ConnectionEvent
from jetstream_bridge.outbox.maintenance import OutboxMaintenance
from jetstream_bridge.outbox.rounds import RelayRounds, RelaySettings, Round
from jetstream_bridge.outbox.upkeep import RelayMaintenance

logger = logging.getLogger(__name__)

IDLE_MIN, IDLE_MAX = 0.05, 1.0  # seconds between two looks at an empty outbox
WAKE_AFTER = 0.001  # seconds from a commit in this process to the look that it causes
PROBE_MIN, PROBE_MAX = 0.1, 2.0  # seconds between two tries in an outage
ROUND_LIMIT = 30.0  # seconds
# A second claim begins when one was as full as this, and goes on while it finds as much as that.
SECOND_FROM, SECOND_WHILE = 1 / 4, 1 / 16  # of the batch size


class Relay:
    """Drains the outbox until it is told to stop. `run` is one task, owned by the bridge."""

    def __init__(
        self,
        rounds: RelayRounds,
        second: RelayRounds | None,
        maintenance: OutboxMaintenance,
        connection: Connection,
        settings: RelaySettings,
    ) -> None:
        """`second` has lanes and a note of its own; None where one claim works at a time."""
        self._rounds = rounds
        self._second = second
        self._second_claim: asyncio.Task[None] | None = None
        self._maintenance = RelayMaintenance(
            maintenance, rounds.lanes, retention=settings.retention
        )
        self._connection = connection
        self._batch_size = settings.batch_size
        self._work = asyncio.Event()
        self._waking: asyncio.TimerHandle | None = None
        self._hope = asyncio.Event()  # that an outage is over
        self._stopping = asyncio.Event()
        self.problem: str | None = "not connected to NATS"  # why nothing goes out
        self.paused_since: datetime | None = None  # by an operator, for all replicas
        self.looked_at = loop_time()  # when its last round began

    def wake(self) -> None:
        """There is something to do: look now and not at the next poll.

        In an outage it waits for its turn all the same: every commit wakes the relay.
        """
        self._work.set()

    def wake_after_commit(self) -> None:
        """Look in a moment: whoever committed answers first, and commits that come together are
        one look."""
        if self._waking is None:
            self._waking = asyncio.get_running_loop().call_later(WAKE_AFTER, self._wake_up)

    def _wake_up(self) -> None:
        self._waking = None
        self.wake()

    def hope(self) -> None:
        """What the relay waited for may be there now: look at once, also in an outage."""
        self._hope.set()
        self._work.set()

    def stop(self) -> None:
        """Finish the claim in hand, then return from `run`."""
        self._stopping.set()
        self.hope()

    def _on_connection(self, event: ConnectionEvent) -> None:
        if event in (ConnectionEvent.CONNECTED, ConnectionEvent.REPLACED):
            self.hope()

    async def run(self) -> None:
        """Work until `stop`. Faults of NATS and of the database are waited out."""
        self._connection.add_listener(self._on_connection)
        try:
            await self._drain()
        finally:
            self._connection.remove_listener(self._on_connection)
            await self._end_second()
            try:
                await self._rounds.finish()
                if self._second is not None:
                    await self._second.finish()
            except DATABASE_ERRORS as error:
                logger.warning("the relay's lease ends by the clock: %s", type(error).__name__)

    async def _drain(self) -> None:
        idle = IDLE_MIN
        outage = PROBE_MIN
        while not self._stopping.is_set():
            self.looked_at = loop_time()
            self._work.clear()
            self._hope.clear()
            done = await self._guarded(self._first_round)
            self._report(done.problem)
            self._note_pause(self._rounds.paused_since)
            if self.problem is not None:
                await happens(self._hope, outage * random.uniform(0.5, 1.0))
                outage = min(PROBE_MAX, outage * 2)
                continue
            outage = PROBE_MIN
            self._begin_second(done)
            await self._maintenance.run()
            if done.handled:
                idle = IDLE_MIN
                continue
            await happens(self._work, idle)
            idle = min(IDLE_MAX, idle * 1.5)

    async def _first_round(self) -> Round:
        if self._second is not None and self._second_claim is None:
            await self._second.catch_up()  # which it does itself while it works
        # After an outage, a few rows find out whether it is over.
        return await self._rounds.run(1 if self.problem else self._batch_size)

    def _begin_second(self, first: Round) -> None:
        if self._second_claim is not None and self._second_claim.done():
            claim, self._second_claim = self._second_claim, None
            claim.result()
        if self._second is None or self._second_claim is not None:
            return
        if first.handled >= SECOND_FROM * self._batch_size:
            work = self._work_beside(self._second)
            self._second_claim = asyncio.create_task(work, name="relay's second claim")

    async def _work_beside(self, second: RelayRounds) -> None:
        """Take further claims while there is much to send; what fails is met by the first one."""
        least = SECOND_WHILE * self._batch_size
        while not self._stopping.is_set() and self.problem is None:
            done = await self._guarded(partial(second.run, self._batch_size))
            if done.problem is not None or done.handled < least:
                logger.debug("the second claim ends: %s", done.problem or "little to send")
                return

    async def _end_second(self) -> None:
        """Let the second claim finish what it has in hand; end it where this task was ended."""
        claim, self._second_claim = self._second_claim, None
        if claim is None:
            return
        if not self._stopping.is_set():
            claim.cancel()
        await asyncio.wait({claim})  # a round has a limit
        if not claim.cancelled():
            claim.result()

    async def _guarded(self, work: Callable[[], Awaitable[Round]]) -> Round:
        """One round; a fault of the database becomes the relay's `problem`."""
        if not self._connection.connected:
            return Round(problem="not connected to NATS")
        try:
            async with asyncio.timeout(ROUND_LIMIT):
                return await work()
        except DATABASE_ERRORS as error:
            logger.debug("relay round failed", exc_info=error)
            return Round(problem=f"the database does not answer: {type(error).__name__}")
        except (BridgeError, NatsError) as error:
            return Round(problem=f"nobody can tell what the stream has: {error}")
        except Exception as error:  # ours; the task goes on, and readiness shows it
            logger.exception("a round of the relay failed")
            return Round(problem=f"the relay failed: {error!a:.200}")

    def _report(self, problem: str | None) -> None:
        if problem != self.problem:
            if problem is None:
                logger.info("relaying")
            else:
                logger.warning("relaying stopped: %s", problem)
        self.problem = problem

    def _note_pause(self, since: datetime | None) -> None:
        if (since is None) != (self.paused_since is None):
            logger.warning("relaying is %s", "resumed" if since is None else "paused")
        self.paused_since = since
