"""What a relay does for its table beside sending: lanes are there, old rows go, nobody is orphaned.

While there is much to delete, a portion after each round keeps pace with the sending.
"""

from __future__ import annotations

import logging
import random

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.database_faults import DATABASE_ERRORS
from jetstream_bridge.outbox.claims import Lanes
from jetstream_bridge.outbox.maintenance import OutboxMaintenance

logger = logging.getLogger(__name__)

MAINTENANCE_EVERY = 30.0  # seconds


class Upkeep:
    """One relay's share of it, in its own time."""

    def __init__(self, maintenance: OutboxMaintenance, lanes: Lanes, *, retention: float) -> None:
        """`retention`: seconds that a sent row is kept."""
        self._maintenance = maintenance
        self._lanes = lanes
        self._retention = retention
        # Replicas that start together do not do it together.
        self._next = loop_time() + random.uniform(0, MAINTENANCE_EVERY)
        self._cleaned_up_to = 0
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
            cleaned = await self._maintenance.delete_sent(
                older_than=self._retention, after=self._cleaned_up_to
            )
            self._cleaned_up_to = cleaned.go_on_after
            await self._maintenance.release_orphans()
        except DATABASE_ERRORS as error:
            logger.warning("outbox maintenance failed: %s", type(error).__name__)
            self._cleaned_up_to = 0
        if not self._cleaned_up_to:
            self._next = loop_time() + MAINTENANCE_EVERY

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
