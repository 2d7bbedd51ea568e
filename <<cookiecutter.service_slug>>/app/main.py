"""The API process: `uvicorn app.main:app`. It also relays the outbox, unless told not to.

It comes up and serves whether NATS is there or not; what is published meanwhile waits in the
outbox.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app.consumers import load_consumers
from app.extensions import extensions
from app.routers import routers
from app.settings import Settings
from jetstream_bridge import ClientFactory, GuardedClient
from jetstream_bridge.service import prepare_process
from jetstream_bridge.web import TELEMETRY, add_console, install, serving


def create_app(settings: Settings, *, make_client: ClientFactory = GuardedClient) -> FastAPI:
    """Make the application; its lifespan runs the bridge."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Connects to NATS, ensures the stream and relays the outbox, for as long as it is entered.
        async with serving(
            app,
            settings,
            relay=settings.relay_enabled,
            handlers=load_consumers(),
            extensions=extensions,
            make_client=make_client,
        ):
            yield

    app = FastAPI(
        title=settings.service_name,
        description=settings.description,
        lifespan=lifespan,
        telemetry=TELEMETRY,
    )
    install(app, settings)  # problem documents, a limit for bodies, the gate before /admin, traces
    for router in routers():
        app.include_router(router)
    add_console(app, settings)  # without this line, /admin has its API alone
    return app


def __getattr__(name: str) -> FastAPI:
    """Make `app` when it is first asked for, so that importing this module reads no settings."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app: FastAPI = create_app(prepare_process(Settings, load_consumers, extensions))
    globals()["app"] = app
    return app
