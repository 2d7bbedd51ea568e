"""The console's pages, each with the actions that start from it. None is part of OpenAPI."""

from __future__ import annotations

from fastapi import APIRouter

from app.console.pages import (
    assets,
    inbox,
    letters,
    login,
    nowhere,
    outbox,
    overview,
    topology,
)

router = APIRouter(include_in_schema=False)
# What is nowhere else comes last.
for part in (login, assets, overview, outbox, inbox, letters, topology, nowhere):
    router.include_router(part.router)
