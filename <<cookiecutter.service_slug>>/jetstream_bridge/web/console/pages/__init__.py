"""The console's pages, each with the actions that start from it. None is part of OpenAPI."""

from __future__ import annotations

from fastapi import APIRouter

from jetstream_bridge.web.console.pages import (
    assets,
    bulk_actions,
    events,
    inbox,
    letters,
    login,
    not_found,
    outbox,
    overview,
    topology,
)

router = APIRouter(include_in_schema=False)
# What is nowhere else comes last.
for part in (
    *(login, assets, overview, outbox, inbox, letters, bulk_actions),
    *(topology, events, not_found),
):
    router.include_router(part.router)
