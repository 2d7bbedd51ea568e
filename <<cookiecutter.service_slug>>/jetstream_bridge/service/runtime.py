"""What every process of the service runs on: database, bridge and health, started and stopped.

Starting waits for nobody: neither NATS nor the database need be there. Stopping ends in time: a
process that has not stopped a while after its grace is ended from outside the event loop, since
a handler that blocks the loop blocks every time limit in it too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fastapi import FastAPI

from jetstream_bridge.bridge import Bridge
from jetstream_bridge.contracts.catalog import event_catalog
from jetstream_bridge.core.logger import get_logger
from jetstream_bridge.inbox.dependencies import Resources
from jetstream_bridge.inbox.registry import Consumers
from jetstream_bridge.nats.client import GuardedClient
from jetstream_bridge.nats.session import ClientFactory
from jetstream_bridge.operations.queue_metrics import QueueMetrics
from jetstream_bridge.service.bridge_config import bridge_config
from jetstream_bridge.service.configuration_warnings import configuration_warnings
from jetstream_bridge.service.database import Database
from jetstream_bridge.service.event_documents import EventDocuments
from jetstream_bridge.service.extensions import Extensions
from jetstream_bridge.service.health import Health
from jetstream_bridge.service.jetstream_health import JetStreamHealth
from jetstream_bridge.service.ready_metrics import ReadyMetrics
from jetstream_bridge.service.resources import OpenResources
from jetstream_bridge.service.schema import pending_migrations
from jetstream_bridge.service.settings import BridgeSettings
from jetstream_bridge.service.shutdown import Shutdown
from jetstream_bridge.service.telemetry import FLUSH_WITHIN, flush_spans, otlp_metrics

if TYPE_CHECKING:
    from jetstream_bridge.service.otlp_metrics import OtlpMetrics

_CLOSE_DATABASE = 3.0  # seconds

_log = get_logger(__name__)


@dataclass(frozen=True)
class Runtime:
    """The running parts of one process."""

    settings: BridgeSettings
    database: Database
    bridge: Bridge
    health: Health
    jetstream: JetStreamHealth
    queues: QueueMetrics
    readiness: ReadyMetrics
    resources: Resources
    events: EventDocuments

    def attach(self, app: FastAPI) -> None:
        """Hand the parts to `app`, whose routes and dependencies take them from its state."""
        app.state.settings = self.settings
        app.state.database = self.database
        app.state.bridge = self.bridge
        app.state.health = self.health
        app.state.jetstream = self.jetstream
        app.state.queues = self.queues
        app.state.refresh_gauges = self.refresh_gauges
        app.state.resources = self.resources
        app.state.events = self.events

    async def refresh_gauges(self) -> None:
        """Bring what is read and not counted up to date, as of five seconds ago or later."""
        await asyncio.gather(self.queues.refresh(), self.readiness.refresh())

    async def stop(self, grace: float) -> None:
        """Stop the bridge within `grace` seconds and a few, and give up what is still asked."""
        await asyncio.gather(
            self.bridge.stop(grace=grace), self.health.close(), self.queues.close()
        )


@asynccontextmanager
async def running(
    settings: BridgeSettings,
    *,
    relay: bool = False,
    consumers: Consumers | None = None,
    handlers: Consumers | None = None,
    make_client: ClientFactory = GuardedClient,
    shutdown: Shutdown | None = None,
    extensions: Extensions | None = None,
) -> AsyncIterator[Runtime]:
    """Run the bridge with what this process is for: relaying, consuming, or neither.

    `shutdown` knows since when the process is to stop. `handlers` are those that another process
    runs: this one looks at how far behind they are. The resources of `extensions` are open before
    the bridge starts and until it has stopped. Raises `ResourceError` when one cannot be opened.
    """
    for warning in configuration_warnings(settings):
        _log.warning(warning)
    extensions = extensions or Extensions()
    shutdown = shutdown or Shutdown(settings.shutdown_grace)
    database = extensions.open_database(settings)
    resources = extensions.given(settings, database)
    runtime: Runtime | None = None
    exported: OtlpMetrics | None = None
    try:
        with shutdown.cancelling():
            await extensions.open(resources)
        bridge = Bridge(
            bridge_config(settings),
            database.sessions,
            relay=relay,
            consumers=consumers,
            handlers=handlers,
            pending_migrations=_pending(settings, database),
            resources=resources,
            declared=extensions.events,
            make_client=make_client,
        )
        events = _events(bridge, settings, extensions, handlers or consumers)
        runtime = _runtime(settings, database, bridge, resources, extensions, events)
        shutdown.running = bridge.running
        await bridge.__aenter__()
        exported = otlp_metrics(settings, runtime.refresh_gauges)
        if exported is not None:
            exported.start()
        yield runtime
    finally:
        with shutdown.bounded():
            if runtime is not None:
                await runtime.stop(shutdown.left)
            await resources.close()
            await _close(database)
            await asyncio.gather(_last_metrics(exported), flush_spans())


async def _last_metrics(exported: OtlpMetrics | None) -> None:
    if exported is not None:
        await exported.close(within=FLUSH_WITHIN)


def _pending(settings: BridgeSettings, database: Database) -> Callable[[], Awaitable[list[str]]]:
    return partial(pending_migrations, settings.root, database.reading)


def _runtime(
    settings: BridgeSettings,
    database: Database,
    bridge: Bridge,
    resources: OpenResources,
    extensions: Extensions,
    events: EventDocuments,
) -> Runtime:
    pending = _pending(settings, database)
    health = Health(database, bridge, pending, own=extensions.probes(resources))
    return Runtime(
        settings=settings,
        database=database,
        bridge=bridge,
        health=health,
        jetstream=JetStreamHealth(bridge, settings),
        queues=QueueMetrics(database.reading, bridge.connection, bridge.inspection, bridge.letters),
        readiness=ReadyMetrics(health, settings),
        resources=resources,
        events=events,
    )


def _events(
    bridge: Bridge,
    settings: BridgeSettings,
    extensions: Extensions,
    handlers: Consumers | None,
) -> EventDocuments:
    known = handlers if handlers is not None else Consumers()
    return EventDocuments(settings, lambda: event_catalog(bridge.config, extensions.events, known))


async def _close(database: Database) -> None:
    try:
        async with asyncio.timeout(_CLOSE_DATABASE):
            await database.close()
    except TimeoutError:
        _log.warning("the database did not answer while its connections were closed")
