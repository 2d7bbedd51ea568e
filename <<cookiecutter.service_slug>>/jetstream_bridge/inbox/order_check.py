"""No event is handled before an earlier one of its resource, also when that one is elsewhere.

Whenever messages may have been delivered to somebody who is gone (at the start, after a connection
or a consumer was lost, when the consumer's count of deliveries jumps), the worker finds out what is
outstanding. What comes after one of these in its resource waits until it is here, or is ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping

from nats.errors import Error as NatsError

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.errors import BridgeError, PermissionDeniedError
from jetstream_bridge.inbox.deliveries import Deliveries, OverdueEvent
from jetstream_bridge.inbox.delivery import Delivery
from jetstream_bridge.inbox.outstanding import (
    ConsumerProgress,
    DurableView,
    Outstanding,
    TooManyOutstandingError,
)
from jetstream_bridge.inbox.received import Place
from jetstream_bridge.inbox.tables import InboxStatus

logger = logging.getLogger(__name__)

EVERY = 1.0  # seconds between two looks after one that is missing
MARGIN = 1.0  # seconds after `ack_wait` within which the server delivers again
SHARED = 60.0  # seconds for which a jump is taken for another worker's share
MOST = 50  # questions about single messages in one look
SETTLE = 0.2  # seconds for acknowledgements that are on their way

Statuses = Callable[[Collection[Place]], Awaitable[Mapping[Place, InboxStatus]]]
_ENDED = (InboxStatus.PROCESSED, InboxStatus.DEAD_LETTERED)


class OrderCheck:
    """Knows which of one durable's events have to come before those in hand."""

    def __init__(
        self,
        view: DurableView | None,
        hand: Deliveries,
        statuses: Statuses,
        *,
        ack_wait: float,
        alone: bool,
    ) -> None:
        """Without a `view` there is no order to keep. `statuses` tells what the inbox has of
        places. `alone`: this worker has the lease, so a jump is never another worker's share."""
        self._view = view
        self._hand = hand
        self._statuses = statuses
        self._ack_wait = ack_wait
        self._alone = alone
        self._count: int | None = None  # the consumer's deliveries that are accounted for
        self._shared_until = 0.0
        self._by_jump: set[Place] = set()  # awaited because of a jump
        self._jumped = asyncio.Event()
        self._next_check = 0.0
        self._may_read = True
        self._quiet_until = 0.0  # nothing is pulled: what is outstanding is not due yet
        self._one_at = 0.0
        self._missing = 0  # outstanding, and not to be told from the others

    @property
    def pauses(self) -> bool:
        """Whether nothing may begin just now: something earlier may be elsewhere."""
        return self._jumped.is_set() or self._missing > 0

    @property
    def missing(self) -> int:
        """How many have to be asked for, whatever else is in hand."""
        return self._missing

    @property
    def quiet(self) -> bool:
        """Whether nothing should be pulled: it would be newer than what has to come first."""
        return loop_time() < self._quiet_until

    def asks_for_one(self, now: float) -> bool:
        """Whether to ask for a message though there is no room; once in a while, since it may be
        another one than what has to come."""
        if now < self._one_at or not self._hand.expects(now):
            return False
        self._one_at = now + EVERY
        return True

    def arrived(self, delivery: Delivery, count: int) -> None:
        """Take notice of a delivery; `count` is the consumer's own."""
        if self._view is None:
            return
        expected = self._count
        self._count = max(count, expected or 0)
        if self._missing and delivery.tries > 1:
            self._missing -= 1
        if expected is not None and count > expected + 1 and self._minds_jumps:
            self._jumped.set()

    @property
    def _minds_jumps(self) -> bool:
        return self._alone or loop_time() >= self._shared_until

    async def run(self, resume: Callable[[], None]) -> None:
        """Look whenever the count jumps. One task, owned by the worker."""
        while True:
            await self._jumped.wait()
            try:
                await self.look(jumped=True)
            except (BridgeError, NatsError, OSError, TimeoutError) as error:
                logger.warning("what is outstanding is unknown, asked again: %s", error)
                await asyncio.sleep(EVERY)
                continue
            self._jumped.clear()
            resume()

    async def look(self, *, jumped: bool = False) -> None:
        """Find out what is outstanding elsewhere; what comes after it waits."""
        if self._view is None:
            return
        try:
            state = await self._view.state()
        except PermissionDeniedError as error:  # the durable is bound unseen, and readiness says so
            logger.debug("what is outstanding cannot be asked for: %s", error)
            return
        if self._count is None or state.count < self._count:
            self._count = state.count  # a consumer that was made anew counts from 1
        self._count = max(self._count, state.count)
        try:
            found = await self._view.between(state) if self._may_read else None
        except (PermissionDeniedError, TooManyOutstandingError) as error:
            self._may_read = not isinstance(error, PermissionDeniedError)
            found = None
        if found is None:
            await self._hold_all(self._view, state)
            return
        self._missing = 0
        await self._expect(found, jumped=jumped)

    async def _expect(self, found: list[Outstanding], *, jumped: bool) -> None:
        statuses = await self._statuses([one.place for one in found])
        now = loop_time()
        comes, until = now + self._ack_wait, now + 2 * self._ack_wait + MARGIN
        held = 0
        for one in found:
            if statuses.get(one.place) in _ENDED:
                continue
            if self._hand.expect(
                one.resource, one.place, due=now + EVERY, comes=comes, until=until
            ):
                held += 1
                if jumped:
                    self._by_jump.add(one.place)
        if held:
            logger.info("%d events are outstanding elsewhere; later ones of theirs wait", held)

    async def _hold_all(self, view: DurableView, state: ConsumerProgress) -> None:
        """It cannot be known which are outstanding: nothing begins until all are due again."""
        if state.pending - self._hand.known > 0:
            await asyncio.sleep(SETTLE)
            state = await view.state()
        self._missing = max(0, state.pending - self._hand.known)
        if self._missing:
            self._quiet_until = loop_time() + self._ack_wait
            logger.warning(
                "%d events are outstanding elsewhere, and the stream cannot be read to learn which;"
                " all others wait %.0f s for them: grant STREAM.MSG.GET to spare that",
                self._missing,
                self._ack_wait,
            )

    async def check(self) -> bool:
        """Let go on what waits for events that will not come; say whether there was any."""
        now = loop_time()
        if self._missing and now > self._quiet_until + MARGIN:
            self._missing = 0
            return True
        overdue = self._hand.overdue(now)
        if not overdue or now < self._next_check:
            return False
        self._next_check = now + EVERY
        if self._view is None:
            gone = [one for one in overdue if one.given_up]
        else:
            gone = await self._gone(self._view, overdue)
        for one in gone:
            self._hand.no_longer_awaited(one.resource, one.place)
            if one.place in self._by_jump:
                # Somebody else ended what was not here: a jump is that worker's share.
                self._shared_until = now + SHARED
        self._by_jump -= {one.place for one in gone}
        return bool(gone)

    async def _gone(self, view: DurableView, overdue: list[OverdueEvent]) -> list[OverdueEvent]:
        try:
            state = await view.state()
            statuses = await self._statuses([one.place for one in overdue])
            return [
                one
                for n, one in enumerate(sorted(overdue, key=lambda one: one.place))
                if state.floor >= one.place[0]
                or statuses.get(one.place) in _ENDED
                or await self._is_gone(view, one, statuses.get(one.place), ask=n < MOST)
            ]
        except (BridgeError, NatsError, OSError, TimeoutError) as error:
            logger.debug("what is missing is unknown: %s", error)
            return []

    async def _is_gone(
        self, view: DurableView, one: OverdueEvent, status: InboxStatus | None, *, ask: bool
    ) -> bool:
        if ask and self._may_read and not await view.has(one.place[0]):
            return True
        known_open = status is not None or (self._may_read and view.is_work_queue)
        return one.given_up and not known_open
