"""Style and script, as files of this process."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request, Response

from jetstream_bridge.web.console.assets import ASSETS
from jetstream_bridge.web.console.headers import secured
from jetstream_bridge.web.console.pages.access import OpenRoute
from jetstream_bridge.web.console.urls import STATIC

router = APIRouter(prefix=STATIC, route_class=OpenRoute)

_FOR_EVER = "public, max-age=31536000, immutable"


@router.get("/{name}")
async def asset(request: Request, name: str, v: str | None = None) -> Response:
    """Return a file. With its own version in the address it need not be asked for again."""
    found = ASSETS.get(name)
    if found is None:
        raise HTTPException(404, f"The console has no file {name!r}.")
    cache = _FOR_EVER if v == found.version else "no-cache"
    etag = {"ETag": f'"{found.version}"'}
    if request.headers.get("if-none-match") == etag["ETag"]:
        return secured(Response(status_code=304, headers=etag), cache=cache)
    answer = Response(found.content, media_type=found.media_type, headers=etag)
    return secured(answer, cache=cache)
