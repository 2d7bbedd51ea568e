"""Events that came in: found, read, and replayed where they are parked."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request, Response
from starlette.responses import RedirectResponse

from jetstream_bridge.inbox.tables import InboxStatus
from jetstream_bridge.web.admin import cursors
from jetstream_bridge.web.admin.access import RowKey
from jetstream_bridge.web.console.flash_messages import done
from jetstream_bridge.web.console.forms import FormDep
from jetstream_bridge.web.console.headers import secured
from jetstream_bridge.web.console.pages.access import Blank, ConsoleRoute, OperationsDep
from jetstream_bridge.web.console.pages.search import SearchDep, found
from jetstream_bridge.web.console.rendering import page
from jetstream_bridge.web.console.urls import UNDER, root_of

PLACE = f"{UNDER}/inbox"

router = APIRouter(prefix=PLACE, route_class=ConsoleRoute)

_LIST = "i"
Status = Annotated[InboxStatus | None, Query(), Blank]
After = Annotated[str | None, cursors.after(_LIST)]


@router.get("")
async def find(
    request: Request,
    operations: OperationsDep,
    search: SearchDep,
    status: Status = None,
    after: After = None,
) -> Response:
    return await found(
        request,
        "inbox.html",
        operations.inbox.page,
        search,
        status=status,
        statuses=InboxStatus,
        after=after,
        letter=_LIST,
    )


@router.get("/{id:int}")
async def show(request: Request, operations: OperationsDep, id: RowKey) -> Response:
    return page(request, "inbox_event.html", row=await operations.inbox_row(id))


@router.get("/{id:int}/letter")
async def letter(request: Request, operations: OperationsDep, id: RowKey) -> Response:
    """Lead to the event's dead letter."""
    found = await operations.letter_of(await operations.inbox_row(id))
    if found is None:
        raise HTTPException(
            404,
            "The event's dead letter was not found: it was replayed, discarded, or has expired.",
        )
    path = f"{root_of(request.scope)}{UNDER}/dead-letters/{found.metadata.sequence}"
    return secured(RedirectResponse(path, 303))


@router.post("/{id:int}/replay")
async def replay(
    request: Request, _form: FormDep, operations: OperationsDep, id: RowKey
) -> Response:
    await operations.replay_parked(id)
    return done(request, f"{PLACE}/{id}", "The event is with the worker again.")
