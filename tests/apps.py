"""The template's own API for tests."""

from __future__ import annotations

from fastapi import FastAPI

from app.main import create_app
from app.settings import Settings
from jetstream_bridge import ClientFactory, GuardedClient
from jetstream_bridge.testing import apps


def make_app(settings: Settings, *, make_client: ClientFactory = GuardedClient) -> FastAPI:
    """Make the application as `create_app` does, and quickly."""
    return apps.make_app(create_app, settings, make_client=make_client)
