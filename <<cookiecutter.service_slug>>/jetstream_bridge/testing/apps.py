"""A service's API for tests: whole, and quick to make."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI
from starlette.routing import BaseRoute

from jetstream_bridge.nats.client import GuardedClient
from jetstream_bridge.nats.session import ClientFactory
from jetstream_bridge.service.settings import BridgeSettings

CreateApp = Callable[..., FastAPI]

_prepared: dict[CreateApp, list[BaseRoute]] = {}


def make_app(
    create_app: CreateApp, settings: BridgeSettings, *, make_client: ClientFactory = GuardedClient
) -> FastAPI:
    """Call `create_app(settings, make_client=...)`, with the routes of the first one made here.

    FastAPI prepares an application's routes at its first request, which takes longer than most
    tests do. No route depends on a setting.
    """
    app = create_app(settings, make_client=make_client)
    app.router.routes[:] = _prepared.setdefault(create_app, list(app.router.routes))
    return app


@asynccontextmanager
async def client_of(app: FastAPI, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `app`, whose lifespan the caller runs."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers=headers
    ) as client:
        yield client
