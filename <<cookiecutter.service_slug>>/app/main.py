"""The API process: `uvicorn app.main:app`. It also relays the outbox, unless told not to.

It comes up and serves whether NATS is there or not; what is published meanwhile waits in the
outbox.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app.consumers import load_consumers
from app.routers import routers
from app.settings import Settings
from jetstream_bridge import ClientFactory, GuardedClient
from jetstream_bridge.service import problems, telemetry
from jetstream_bridge.service.logs import configure_logging
from jetstream_bridge.service.runtime import running
from jetstream_bridge.service.shutdown import Shutdown, with_uvicorn
from jetstream_bridge.service.start_checks import checked_settings
from jetstream_bridge.web.admin_gate import AdminGate
from jetstream_bridge.web.console.auth import Door, sessions_for
from jetstream_bridge.web.console.login_throttle import Guesses
from jetstream_bridge.web.console.pages import router as console
from jetstream_bridge.web.console.snapshots import Readings
from jetstream_bridge.web.request_trace import RequestTrace


def create_app(settings: Settings, *, make_client: ClientFactory = GuardedClient) -> FastAPI:
    """Make the application; its lifespan runs the bridge."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        shutdown = Shutdown(settings.shutdown_grace)
        with with_uvicorn(shutdown):
            async with running(
                settings,
                relay=settings.relay_enabled,
                handlers=load_consumers(),
                make_client=make_client,
                shutdown=shutdown,
            ) as runtime:
                runtime.attach(app)
                async with Readings(runtime.bridge, runtime.database.reading) as readings:
                    app.state.readings = readings
                    yield

    app = FastAPI(
        title=settings.service_name,
        description=settings.description,
        lifespan=lifespan,
        telemetry=telemetry.FASTAPI,
    )
    problems.install(app)
    sessions = sessions_for(settings.admin_token, settings.app_name)
    app.state.console_sessions = sessions
    app.state.console_guesses = Guesses()
    app.add_middleware(
        AdminGate, token=settings.admin_token, door=Door(sessions) if sessions else None
    )
    app.add_middleware(RequestTrace)
    for router in (*routers(), console):
        app.include_router(router)
    return app


def __getattr__(name: str) -> FastAPI:
    """Make `app` when it is first asked for, so that importing this module reads no settings."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    settings = checked_settings(Settings, load_consumers)
    configure_logging(settings.log_level, settings.log_format)
    telemetry.configure_tracing(settings)
    app: FastAPI = create_app(settings)
    globals()["app"] = app
    return app
