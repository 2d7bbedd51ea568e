"""Events that came in: found, read, and replayed where they are parked."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.bridge.inbox import InboxStatus
from app.console.forms import FormDep
from app.console.notices import done
from app.console.pages.access import Blank, ConsoleRoute, OperationsDep
from app.console.pages.search import SearchDep, found
from app.console.places import UNDER
from app.console.rendering import page
from app.routers.admin import cursors
from app.routers.admin.access import RowKey

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


@router.post("/{id:int}/replay")
async def replay(
    request: Request, _form: FormDep, operations: OperationsDep, id: RowKey
) -> Response:
    await operations.replay_parked(id)
    return done(request, f"{PLACE}/{id}", "The event is with the worker again.")
