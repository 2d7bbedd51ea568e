"""What the console does not have is a page too."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Response

from jetstream_bridge.web.console.pages.access import ConsoleRoute
from jetstream_bridge.web.console.urls import UNDER

router = APIRouter(prefix=UNDER, route_class=ConsoleRoute)


@router.get("")
@router.get("/{path:path}")
async def not_found() -> Response:
    raise HTTPException(404, "The console has no such page.")
