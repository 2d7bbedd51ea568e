"""What is said about a delivery reaches the message that is meant, or nobody.

An answer names its message by the sequence alone, so one that comes late would end the message
that has this sequence in a stream made anew since. After a connection or a consumer was lost,
answers wait until the stream is known to be the one that delivered. What another stream delivered
is not answered; if it has to be tried again, that happens here, for no server has it any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from jetstream_bridge.inbox.delivery import Delivery

logger = logging.getLogger(__name__)

Reply = Callable[[], Awaitable[object]]


class Replies:
    """What one worker says to the server about its deliveries."""

    def __init__(self) -> None:
        self._sure: Callable[[], bool] = lambda: True
        self._again: Callable[[Delivery], None] = lambda delivery: None
        self._owed: list[tuple[Delivery, Reply]] = []

    def attach(self, *, sure: Callable[[], bool], again: Callable[[Delivery], None]) -> None:
        """`sure` tells whether the stream is known to be the one that delivered; `again` takes a
        delivery back that no server can deliver again."""
        self._sure = sure
        self._again = again

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge these, with one write to the socket for those of one connection."""
        if not self._sure():
            for delivery in deliveries:
                await self._say(delivery, partial(_ack, [delivery.msg]))
            return
        await _ack([delivery.msg for delivery in deliveries if not delivery.stale])

    async def ack_confirmed(self, delivery: Delivery, timeout: float) -> None:
        """Return when the server has taken it; where it is not known yet, it is said later."""
        await self._say(delivery, lambda: delivery.msg.ack_sync(timeout=timeout))

    async def term(self, delivery: Delivery) -> None:
        await self._say(delivery, lambda: delivery.msg.term())

    async def nak(self, delivery: Delivery, *, delay: float) -> None:
        if delivery.stale:
            asyncio.get_running_loop().call_later(delay, self._again, delivery)
            return
        wanted = delay if delay > 0 else None
        later = partial(self.nak, delivery, delay=delay)
        await self._say(delivery, lambda: delivery.msg.nak(delay=wanted), later)

    async def in_progress(self, delivery: Delivery) -> None:
        if not delivery.stale and self._sure():
            await delivery.msg.in_progress()

    async def settle(self) -> None:
        """The stream is known: say what has waited for that."""
        owed, self._owed = self._owed, []
        for delivery, say in owed:
            try:
                await say()
            except (NatsError, OSError, TimeoutError) as error:
                # Delivered again then, and known by the inbox.
                logger.debug("an answer about %s is lost: %r", delivery.key, error)

    async def _say(self, delivery: Delivery, say: Reply, later: Reply | None = None) -> None:
        if delivery.stale:
            return
        if self._sure():
            await say()
        else:
            self._owed.append((delivery, later or partial(self._say, delivery, say)))


async def _ack(messages: Sequence[Msg]) -> None:
    """Each message is answered by the client that received it."""
    for client, of_client in groupby(messages, key=attrgetter("_client")):
        await client.ack(of_client)
