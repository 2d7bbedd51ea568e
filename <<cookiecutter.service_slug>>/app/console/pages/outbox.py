"""Events on their way out: found, read, sent again, discarded."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.bridge.outbox import OutboxStatus
from app.console.forms import FormDep
from app.console.notices import done
from app.console.pages.access import Blank, ConsoleRoute, EventId, OperationsDep
from app.console.pages.search import SearchDep, found
from app.console.places import UNDER
from app.console.rendering import Links, page
from app.routers.admin import cursors

PLACE = f"{UNDER}/outbox"

router = APIRouter(prefix=PLACE, route_class=ConsoleRoute)

_LIST = "o"
Status = Annotated[OutboxStatus | None, Query(), Blank]
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
        "outbox.html",
        operations.outbox.page,
        search,
        status=status,
        statuses=OutboxStatus,
        after=after,
        letter=_LIST,
        paused_since=await operations.paused_since(),
    )


@router.get("/event")
async def show(request: Request, operations: OperationsDep, id: EventId) -> Response:
    return page(request, "outbox_event.html", row=await operations.outbox_row(id))


@router.post("/retry")
async def retry(request: Request, form: FormDep, operations: OperationsDep) -> Response:
    event_id = form.required("id")
    await operations.retry(event_id)
    return done(request, _place_of(request, event_id), "The event is on its way now.")


@router.get("/discard")
async def ask_to_discard(request: Request, operations: OperationsDep, id: EventId) -> Response:
    row = await operations.outbox_row(id)
    links = Links(request)
    return page(
        request,
        "confirm.html",
        current="outbox",
        title="Discard this event",
        text="The event is deleted from the outbox and will never be announced. This cannot be "
        "undone.",
        facts={
            "Event": row.event_type or "of unknown type",
            "Event id": row.event_id,
            "Resource": row.resource,
            "Status": row.status.value,
        },
        action=links.to("outbox/discard"),
        fields=[("id", id)],
        button="Discard the event",
        destructive=True,
        back=links.to("outbox/event", id=id),
    )


@router.post("/discard")
async def discard(request: Request, form: FormDep, operations: OperationsDep) -> Response:
    event_id = form.required("id")
    await operations.discard(event_id)
    return done(request, PLACE, f"The event {event_id} is discarded.", tone="warn")


def _place_of(request: Request, event_id: str) -> str:
    """Return the page of an event as `done` wants it, without what a proxy adds."""
    root: str = request.scope.get("root_path", "")
    return Links(request).to("outbox/event", id=event_id)[len(root) :]
