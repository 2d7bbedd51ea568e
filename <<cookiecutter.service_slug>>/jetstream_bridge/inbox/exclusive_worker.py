"""Running a durable's worker: always, or only while this process holds the lease for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.database_faults import DATABASE_ERRORS, Fault, fault_of
from jetstream_bridge.core.leases import LEASE_SECONDS, RENEW_SECONDS, Fence, LeaseHolder
from jetstream_bridge.core.tasks import happens
from jetstream_bridge.inbox.worker import Worker

logger = logging.getLogger(__name__)

STANDBY_SECONDS = 1.0  # between two looks whether the lease is free
ASK_LIMIT = 3.0  # seconds for one question about it
LOST_GRACE = 1.0  # seconds for what was refused at its commit to end in order


class ExclusiveWorker:
    """One durable's worker, made anew for each term of the lease when it is exclusive."""

    def __init__(self, make: Callable[[Fence | None], Worker], lease: LeaseHolder | None) -> None:
        self._make = make
        self._lease = lease
        self._worker: Worker | None = None
        self._stopping = asyncio.Event()
        self._renewed = 0.0  # when the lease was asked for that was granted last
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

    @property
    def running(self) -> list[str]:
        """A line for each handler that runs."""
        return self._worker.running if self._worker is not None else []

    async def run(self) -> None:
        """Work until `stop`."""
        if self._lease is None:
            self._worker = self._make(None)
            await _run(self._worker)
            return
        while not self._stopping.is_set():
            self.standby = not await self._acquires(self._lease)
            if self.standby:
                await happens(self._stopping, STANDBY_SECONDS)
            else:
                await self._work_while_leased(self._lease)

    async def stop(self, grace: float) -> None:
        """Finish within `grace` seconds, and let another process take over at once."""
        self._stopping.set()
        if self._worker is not None:
            await self._worker.stop(grace)
        if self._lease is not None:
            await self._release(self._lease)

    async def _work_while_leased(self, lease: LeaseHolder) -> None:
        """Work for as long as the lease can be renewed."""
        logger.info("this worker is the active one (%s)", lease.name)
        worker = self._worker = self._make(lease.fence)
        running = asyncio.create_task(_run(worker), name=f"worker {worker.durable.name}")
        try:
            while not running.done() and not self._stopping.is_set():
                await self._pause(worker)
                if self._stopping.is_set():
                    continue
                if worker.lost_lease.is_set() or not await self._renews(lease):
                    logger.warning("the lease %s is lost; standing by", lease.name)
                    self.standby = True
                    await worker.stop(grace=LOST_GRACE)
                    # What still runs of this term commits nothing, though the lease may be free.
                    await self._release(lease)
                    break
            await running
        finally:
            running.cancel()

    async def _pause(self, worker: Worker) -> None:
        """Wait until it is time to renew, or until there is something to do at once."""
        waits = [asyncio.create_task(event.wait()) for event in (self._stopping, worker.lost_lease)]
        await asyncio.wait(waits, timeout=RENEW_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _acquires(self, lease: LeaseHolder) -> bool:
        now = loop_time()
        try:
            taken = await self._acquire(lease)
        except DATABASE_ERRORS as error:
            level = logging.DEBUG if fault_of(error) is Fault.BUSY else logging.WARNING
            logger.log(level, "the lease %s is unknown: %s", lease.name, type(error).__name__)
            return False
        self._renewed = now if taken else self._renewed
        return taken

    async def _renews(self, lease: LeaseHolder) -> bool:
        """Renew. Where that cannot be asked for, the lease is ours until its end.

        On SQLite it is ours beyond that: who cannot be asked because a transaction is under way
        could not have given it to somebody else, and each commit asks.
        """
        now = loop_time()
        try:
            kept = await self._acquire(lease)
        except DATABASE_ERRORS as error:
            logger.debug("the lease %s is not renewed: %s", lease.name, type(error).__name__)
            return lease.on_sqlite or loop_time() < self._renewed + LEASE_SECONDS
        self._renewed = now
        return kept

    @staticmethod
    async def _acquire(lease: LeaseHolder) -> bool:
        if lease.on_sqlite:  # it has a limit of its own, and does not like to be cancelled
            return await lease.acquire()
        async with asyncio.timeout(ASK_LIMIT):
            return await lease.acquire()

    @staticmethod
    async def _release(lease: LeaseHolder) -> None:
        try:
            async with asyncio.timeout(ASK_LIMIT):
                await lease.release()
        except DATABASE_ERRORS as error:
            logger.warning("the lease ends by the clock: %s", type(error).__name__)


async def _run(worker: Worker) -> None:
    """Work; one that dies of a fault gives back what it holds, for its successor."""
    try:
        await worker.run()
    except Exception:
        await worker.stop(grace=0.0)
        raise
