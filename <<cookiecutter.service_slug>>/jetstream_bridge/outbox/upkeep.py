"""What a relay does for its table beside sending: lanes are there, old rows go, nobody is orphaned.

While there is much to delete, a portion after each round keeps pace with the sending. A clean-up
goes on where the one before has ended, since an old snapshot keeps what was deleted; once in an
hour it begins at the first row, for those that were left, and may be old enough by now.
"""

from __future__ import annotations

import logging
import random

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.database_faults import DATABASE_ERRORS
from jetstream_bridge.outbox.claims import Lanes
from jetstream_bridge.outbox.maintenance import CLEANUP_PORTION, OutboxMaintenance

logger = logging.getLogger(__name__)

MAINTENANCE_EVERY = 30.0  # seconds
FROM_START_EVERY = 3600.0  # seconds
FIRST_PORTION = 100  # rows that are looked at where there may be nothing to do
SHARE = 20.0  # slow maintenance is followed by a pause of so many times its length


class RelayMaintenance:
    """One relay's share of it, in its own time."""

    def __init__(self, maintenance: OutboxMaintenance, lanes: Lanes, *, retention: float) -> None:
        """`retention`: seconds that a sent row is kept."""
        self._maintenance = maintenance
        self._lanes = lanes
        self._retention = retention
        # Replicas that start together do not do it together.
        self._next = loop_time() + random.uniform(0, MAINTENANCE_EVERY)
        self._cleaned_up_to = 0  # in a clean-up that is under way
        self._ended_at = 0  # the last row that was deleted
        self._from_start = self._next
        self._begun = False

    async def run(self) -> None:
        """Do what is due; a fault of the database is logged, and tried again later."""
        await self._take_strays()
        if self._begun and loop_time() < self._next:
            return
        try:
            if not self._cleaned_up_to:
                await self._maintenance.restore_lanes()
                self._begun = True
            if loop_time() < self._next:
                return
            began = loop_time()
            await self._clean_up()
            await self._maintenance.release_orphans()
            self._pause(SHARE * (loop_time() - began))
        except DATABASE_ERRORS as error:
            logger.warning("outbox maintenance failed: %s", type(error).__name__)
            self._cleaned_up_to = 0
            self._pause(0)

    def _pause(self, least: float) -> None:
        if not self._cleaned_up_to:
            self._next = loop_time() + max(MAINTENANCE_EVERY, least)

    async def _clean_up(self) -> None:
        """Delete the next portion of old rows."""
        if not self._cleaned_up_to and loop_time() >= self._from_start:
            self._from_start = loop_time() + FROM_START_EVERY
            self._ended_at = 0
        after = self._cleaned_up_to or self._ended_at
        cleaned = await self._maintenance.delete_sent(
            older_than=self._retention,
            after=after,
            limit=CLEANUP_PORTION if self._cleaned_up_to else FIRST_PORTION,
        )
        self._cleaned_up_to = cleaned.go_on_after
        self._ended_at = max(self._ended_at, cleaned.last)

    async def _take_strays(self) -> None:
        try:
            strays = await self._lanes.take_strays()
        except DATABASE_ERRORS as error:
            logger.warning("outbox maintenance failed: %s", type(error).__name__)
            return
        if strays:
            logger.warning(
                "%d events had ids from before those that were sent, and are sent late; let the "
                "table's own sequence give ids, at the INSERT",
                strays,
            )
