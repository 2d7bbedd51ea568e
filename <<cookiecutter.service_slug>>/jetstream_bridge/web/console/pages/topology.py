"""The stream, who owns which subject, and who reads it."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from jetstream_bridge.web.console.pages.access import ConsoleRoute, OperationsDep
from jetstream_bridge.web.console.rendering import page
from jetstream_bridge.web.console.urls import UNDER

router = APIRouter(prefix=f"{UNDER}/topology", route_class=ConsoleRoute)


@router.get("")
async def show(request: Request, operations: OperationsDep) -> Response:
    state = await operations.topology()
    stream = request.app.state.bridge.config.stream
    return page(request, "topology.html", state=state, own_stream=stream)
