"""The events that this service publishes and handles, each with its schema."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from jetstream_bridge.contracts.catalog import HandledEvent, PublishedEvent
from jetstream_bridge.service.event_documents import EventDocuments
from jetstream_bridge.web.console.headers import secured
from jetstream_bridge.web.console.pages.access import ConsoleRoute
from jetstream_bridge.web.console.rendering import page
from jetstream_bridge.web.console.urls import UNDER

router = APIRouter(prefix=f"{UNDER}/events", route_class=ConsoleRoute)

T = TypeVar("T")


def _documents(request: Request) -> EventDocuments:
    found: EventDocuments = request.app.state.events
    return found


DocumentsDep = Annotated[EventDocuments, Depends(_documents)]
Name = Annotated[str, Query(max_length=255)]


@router.get("")
async def show(request: Request, documents: DocumentsDep) -> Response:
    return page(request, "events.html", catalog=documents.catalog)


@router.get("/published")
async def show_published(
    request: Request,
    documents: DocumentsDep,
    event_type: Name,
    version: Annotated[int, Query(ge=1)] = 1,
) -> Response:
    event = _one(
        event
        for event in documents.catalog.published
        if (event.event_type, event.schema_version) == (event_type, version)
    )
    return _shown(request, event, published=True)


@router.get("/handled")
async def show_handled(
    request: Request, documents: DocumentsDep, event_type: Name, source: Name
) -> Response:
    event = _one(
        event
        for event in documents.catalog.handled
        if (event.pattern, event.source) == (event_type, source)
    )
    return _shown(request, event, published=False)


@router.get("/asyncapi.json")
async def download(documents: DocumentsDep) -> Response:
    name = {"content-disposition": 'attachment; filename="asyncapi.json"'}
    return secured(JSONResponse(documents.whole, headers=name))


def _one(found: Iterable[T]) -> T:
    event = next(iter(found), None)
    if event is None:
        raise HTTPException(404, "There is no such event in this version of the service.")
    return event


def _shown(request: Request, event: PublishedEvent | HandledEvent, *, published: bool) -> Response:
    schema = json.dumps(event.schema())
    return page(request, "event.html", event=event, published=published, schema=schema)
