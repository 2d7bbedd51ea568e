"""Puts the console into an application; one that does without it has an API under /admin alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import FastAPI

from jetstream_bridge.core.errors import ConfigurationError
from jetstream_bridge.service.settings import BridgeSettings
from jetstream_bridge.web.console.auth import ConsoleLogin
from jetstream_bridge.web.console.login_throttle import LoginThrottle
from jetstream_bridge.web.console.sessions import Sessions
from jetstream_bridge.web.console.urls import HOME

if TYPE_CHECKING:
    from jetstream_bridge.service.runtime import Runtime


@dataclass(frozen=True, slots=True)
class ConsoleLink:
    """An entry of the console's menu; `path` is a page of the service's own under /admin."""

    title: str
    path: str

    def __post_init__(self) -> None:
        if not self.path.startswith(f"{HOME}/") or not self.title.strip():
            raise ConfigurationError(
                f"{self!r} is no entry of the console's menu; give it a title and a path that "
                f"begins with {HOME}/"
            )


def add_console(
    app: FastAPI, settings: BridgeSettings, *, links: Sequence[ConsoleLink] = ()
) -> None:
    """Serve the operator's console at /admin, with `links` at the end of its menu.

    Called after the service's own routers: the console answers for whatever else is under
    /admin/console. Without ADMIN_TOKEN nobody gets as far.
    """
    app.state.console_links = tuple(links)
    app.state.login_throttle = LoginThrottle()
    if settings.admin_token is not None:
        sessions = Sessions(settings.admin_token, service=settings.app_name)
        app.state.console_sessions = sessions
        app.state.console_login = ConsoleLogin(sessions)
    from jetstream_bridge.web.console.pages import router  # not before a service wants them

    app.include_router(router)


@asynccontextmanager
async def snapshots_for(app: FastAPI, runtime: Runtime) -> AsyncIterator[None]:
    """Let the console, where there is one, look at what runs."""
    from jetstream_bridge.web.console.snapshots import SnapshotCache

    async with SnapshotCache(runtime.bridge, runtime.database.reading) as snapshots:
        app.state.snapshots = snapshots
        yield
