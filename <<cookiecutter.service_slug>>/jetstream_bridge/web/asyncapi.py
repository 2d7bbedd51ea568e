"""`/asyncapi.json`: the events of this service, as `/openapi.json` has its routes.

Whoever reaches the API may read it, so it does not say where NATS is.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from jetstream_bridge.service.event_documents import EventDocuments

router = APIRouter(tags=["events"])


@router.get("/asyncapi.json", summary="The events of this service, as an AsyncAPI document")
async def document(request: Request) -> dict[str, Any]:
    events: EventDocuments = request.app.state.events
    return events.public
