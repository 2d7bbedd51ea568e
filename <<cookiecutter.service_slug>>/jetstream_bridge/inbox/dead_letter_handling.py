"""How the delivery of a dead letter ends: handled and gone, or left where it is.

A letter that its handler fails never makes another letter, or the two would feed each other for
ever. After its last try it rests in the stream, where people find it; it is delivered from time
to time, only to be laid down again.
"""

from __future__ import annotations

import logging

from jetstream_bridge.core.error_report import report
from jetstream_bridge.inbox.delivery import Delivery
from jetstream_bridge.inbox.outcomes import Outcomes
from jetstream_bridge.inbox.reading import Rejection

logger = logging.getLogger(__name__)

REST = 86400.0  # seconds between two reminders of a letter that nobody could handle


class DeadLetterOutcomes(Outcomes):
    """Ends deliveries of the durable for dead letters."""

    async def dead_letter(self, delivery: Delivery, verdict: Rejection) -> None:
        """Leave the letter in the stream."""
        if await self._known(delivery) is not None:
            await self._duplicate(delivery)
            return
        error = report(verdict.error)
        self._tell(
            delivery,
            "dead_lettered",
            logging.ERROR,
            f"dead letter {delivery.key} stays in the stream, its handler gave up: {error}",
            error=verdict.error,
        )
        await self.nak(delivery, delay=REST)
