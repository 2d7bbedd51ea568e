"""What every process of the service runs on: database, bridge and health, started and stopped.

Starting waits for nobody: neither NATS nor the database need be there. Stopping ends in time: a
process that has not stopped a while after its grace is ended from outside the event loop, since
a handler that blocks the loop blocks every time limit in it too.
"""

from __future__ import annotations

import asyncio
import faulthandler
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import structlog
from fastapi import FastAPI

from app.advice import advice
from app.bridge import Bridge, ClientFactory, Consumers, GuardedClient
from app.bridge.queue_metrics import QueueMetrics
from app.database import Database, open_database
from app.health import Health
from app.jetstream_health import JetStreamHealth
from app.ready_metrics import ReadyMetrics
from app.settings import Settings
from app.telemetry import flush_spans

# Seconds beyond the grace for what comes after the handlers: acks, the connection, the pool.
_AFTER_GRACE = 15.0
_CLOSE_DATABASE = 3.0  # seconds
_STDERR = 2

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Runtime:
    """The running parts of one process."""

    settings: Settings
    database: Database
    bridge: Bridge
    health: Health
    jetstream: JetStreamHealth
    queues: QueueMetrics
    readiness: ReadyMetrics

    def attach(self, app: FastAPI) -> None:
        """Hand the parts to `app`, whose routes and dependencies take them from its state."""
        app.state.settings = self.settings
        app.state.database = self.database
        app.state.bridge = self.bridge
        app.state.health = self.health
        app.state.jetstream = self.jetstream
        app.state.queues = self.queues
        app.state.readiness = self.readiness


@asynccontextmanager
async def running(
    settings: Settings,
    *,
    relay: bool = False,
    consumers: Consumers | None = None,
    handlers: Consumers | None = None,
    make_client: ClientFactory = GuardedClient,
) -> AsyncIterator[Runtime]:
    """Run the bridge with what this process is for: relaying, consuming, or neither.

    `handlers` are those that another process runs: this one looks at how far behind they are.
    """
    for warning in advice(settings):
        _log.warning(warning)
    database = open_database(settings)
    bridge = Bridge(
        settings.bridge(),
        database.sessions,
        relay=relay,
        consumers=consumers,
        handlers=handlers,
        make_client=make_client,
    )
    health = Health(database, bridge)
    jetstream = JetStreamHealth(bridge, settings)
    queues = QueueMetrics(database.reading, bridge.connection, bridge.inspection, bridge.letters)
    readiness = ReadyMetrics(health, settings)
    await bridge.__aenter__()
    try:
        yield Runtime(settings, database, bridge, health, jetstream, queues, readiness)
    finally:
        with _ended_by_force(settings.shutdown_grace + _AFTER_GRACE):
            await bridge.stop()
            await health.close()
            await queues.close()
            await _close(database)
            await flush_spans()


async def _close(database: Database) -> None:
    try:
        async with asyncio.timeout(_CLOSE_DATABASE):
            await database.close()
    except TimeoutError:
        _log.warning("the database did not answer while its connections were closed")


@contextmanager
def _ended_by_force(limit: float) -> Iterator[None]:
    """End the process with status 1, and a traceback of every thread, after `limit` seconds."""
    faulthandler.dump_traceback_later(limit, exit=True, file=_STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
