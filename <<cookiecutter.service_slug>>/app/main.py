"""The API process: `uvicorn app.main:app`. It also relays the outbox, unless told not to.

It comes up and serves whether NATS is there or not; what is published meanwhile waits in the
outbox.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app import problems, telemetry
from app.admin_gate import AdminGate
from app.bridge import ClientFactory, GuardedClient
from app.console.door import Door, sessions_for
from app.console.guesses import Guesses
from app.console.pages import router as console
from app.console.readings import Readings
from app.consumers import load_consumers
from app.logs import configure_logging
from app.request_trace import RequestTrace
from app.routers import routers
from app.runtime import running
from app.settings import Settings, load_settings


def create_app(settings: Settings, *, make_client: ClientFactory = GuardedClient) -> FastAPI:
    """Make the application; its lifespan runs the bridge."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        relay = settings.relay_enabled
        async with running(
            settings, relay=relay, handlers=load_consumers(), make_client=make_client
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
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    telemetry.configure_tracing(settings)
    app: FastAPI = create_app(settings)
    globals()["app"] = app
    return app
