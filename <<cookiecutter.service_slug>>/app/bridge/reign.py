"""Running a durable's worker: always, or only while this process holds the lease for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from .consumer import Worker
from .leases import LEASE_SECONDS, RENEW_SECONDS, LeaseHolder
from .tasks import happens

logger = logging.getLogger(__name__)


class Reign:
    """One durable's worker, made anew for each reign when it is exclusive."""

    def __init__(self, make: Callable[[], Worker], lease: LeaseHolder | None) -> None:
        self._make = make
        self._lease = lease
        self._worker: Worker | None = None
        self._stopping = asyncio.Event()
        self.standby = False

    @property
    def problem(self) -> str | None:
        """Why nothing is handled; standing by is no fault."""
        if self.standby:
            return None
        return self._worker.problem if self._worker is not None else "not started"

    @property
    def failure(self) -> BaseException | None:
        return self._worker.failure if self._worker is not None else None

    async def run(self) -> None:
        """Work until `stop`."""
        if self._lease is None:
            self._worker = self._make()
            await self._worker.run()
            return
        while not self._stopping.is_set():
            self.standby = not await self._holds(self._lease)
            if self.standby:
                await happens(self._stopping, RENEW_SECONDS)
            else:
                await self._rule(self._lease)

    async def stop(self, grace: float) -> None:
        """Finish within `grace` seconds, and let another process take over at once."""
        self._stopping.set()
        if self._worker is not None:
            await self._worker.stop(grace)
        if self._lease is not None:
            try:
                await self._lease.release()
            except (SQLAlchemyError, OSError, TimeoutError) as error:
                logger.warning("the lease ends by the clock: %s", type(error).__name__)

    async def _rule(self, lease: LeaseHolder) -> None:
        """Work for as long as the lease can be renewed."""
        logger.info("this worker is the active one (%s)", lease.name)
        worker = self._worker = self._make()
        running = asyncio.create_task(worker.run(), name=f"worker {worker.durable.name}")
        try:
            while not running.done() and not self._stopping.is_set():
                await happens(self._stopping, RENEW_SECONDS)
                if self._stopping.is_set():
                    continue
                # A worker that was refused at a commit hands out nothing more, although the lease
                # may be had again: it had run out, and nobody else wanted it.
                if worker.lost_lease or not await self._holds(lease):
                    logger.warning("the lease %s is lost; standing by", lease.name)
                    await worker.stop(grace=0.0)
                    break
            await running
        finally:
            running.cancel()

    async def _holds(self, lease: LeaseHolder) -> bool:
        try:
            async with asyncio.timeout(LEASE_SECONDS - 2 * RENEW_SECONDS):
                return await lease.acquire()
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            logger.warning("the lease %s is unknown: %s", lease.name, type(error).__name__)
            return False
