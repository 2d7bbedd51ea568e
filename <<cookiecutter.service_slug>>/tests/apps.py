"""The service's API for tests: whole, and quick to make."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.routing import BaseRoute

from app.bridge import ClientFactory, GuardedClient
from app.main import create_app
from app.settings import Settings

_prepared: list[BaseRoute] = []


def make_app(settings: Settings, *, make_client: ClientFactory = GuardedClient) -> FastAPI:
    """Make the application as `create_app` does, with the routes of the first one made here.

    FastAPI prepares an application's routes at its first request, which takes longer than most
    tests do. No route depends on a setting.
    """
    app = create_app(settings, make_client=make_client)
    if not _prepared:
        _prepared.extend(app.router.routes)
    app.router.routes[:] = _prepared
    return app
