"""The API process: what its lifespan runs, and what stands around its routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from jetstream_bridge.core.errors import ResourceError
from jetstream_bridge.core.logger import get_logger
from jetstream_bridge.inbox.registry import Consumers
from jetstream_bridge.nats.client import GuardedClient
from jetstream_bridge.nats.session import ClientFactory
from jetstream_bridge.service import problems, telemetry
from jetstream_bridge.service.extensions import Extensions
from jetstream_bridge.service.settings import BridgeSettings
from jetstream_bridge.service.shutdown import Shutdown, with_uvicorn
from jetstream_bridge.web.admin_gate import AdminGate
from jetstream_bridge.web.request_trace import RequestTrace

if TYPE_CHECKING:
    from jetstream_bridge.service.runtime import Runtime

TELEMETRY = telemetry.FASTAPI  # the package says which spans are exported, and not FastAPI

_log = get_logger(__name__)


@asynccontextmanager
async def serving(
    app: FastAPI,
    settings: BridgeSettings,
    *,
    relay: bool,
    handlers: Consumers,
    extensions: Extensions | None = None,
    make_client: ClientFactory = GuardedClient,
) -> AsyncIterator[Runtime]:
    """Connect to NATS, ensure the stream and, with `relay`, send what is in the outbox.

    It starts at once, whether NATS and the database are there or not. `handlers` are those that
    the worker runs: this process looks at how far behind they are. Under uvicorn the end begins
    with the first signal and comes within SHUTDOWN_GRACE. Raises `ResourceError` when a resource
    of `extensions` cannot be opened; uvicorn ends with its status 3 then.
    """
    # All of the bridge: what only looks at `app`, for its OpenAPI document say, needs none of it.
    from jetstream_bridge.service.runtime import running
    from jetstream_bridge.web.console.mounting import snapshots_for

    shutdown = Shutdown(settings.shutdown_grace)
    parts = running(
        settings,
        relay=relay,
        handlers=handlers,
        make_client=make_client,
        shutdown=shutdown,
        extensions=extensions,
    )
    with with_uvicorn(shutdown):
        try:
            async with parts as runtime, snapshots_for(app, runtime):
                runtime.attach(app)
                yield runtime
        except ResourceError as error:
            _log.critical("the API cannot start", error=str(error))
            raise


def install(app: FastAPI, settings: BridgeSettings) -> None:
    """Put around the routes of `app` what every service has.

    Errors leave as problem documents, request bodies have a limit, nothing under /admin answers
    without ADMIN_TOKEN, and the trace of a request goes on in its events.
    """
    problems.install(app)
    app.add_middleware(AdminGate, token=settings.admin_token)
    app.add_middleware(RequestTrace)
