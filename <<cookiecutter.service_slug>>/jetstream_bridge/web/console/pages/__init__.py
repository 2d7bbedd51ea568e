"""The console's pages, each with the actions that start from it. None is part of OpenAPI."""

from __future__ import annotations

from fastapi import APIRouter

from jetstream_bridge.web.console.pages import (
    assets,
    inbox,
    letter_sweeps,
    letters,
    login,
    outbox,
    overview,
    topology,
)
from jetstream_bridge.web.console.pages import not_found as nowhere

router = APIRouter(include_in_schema=False)
# What is nowhere else comes last.
for part in (login, assets, overview, outbox, inbox, letters, letter_sweeps, topology, nowhere):
    router.include_router(part.router)
