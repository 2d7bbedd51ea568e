"""Events on their way out: found, read, sent again, discarded."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from jetstream_bridge.operations.listed_rows import OutboxRow
from jetstream_bridge.operations.listing import Page
from jetstream_bridge.outbox.tables import OutboxStatus
from jetstream_bridge.service.operator import Operations
from jetstream_bridge.web.admin import cursors
from jetstream_bridge.web.console.flash_messages import done
from jetstream_bridge.web.console.forms import FormDep
from jetstream_bridge.web.console.pages.access import Blank, ConsoleRoute, EventId, OperationsDep
from jetstream_bridge.web.console.pages.search import SearchDep, found
from jetstream_bridge.web.console.rendering import Links, page
from jetstream_bridge.web.console.urls import UNDER

PLACE = f"{UNDER}/outbox"

router = APIRouter(prefix=PLACE, route_class=ConsoleRoute)

_LIST = "o"


class Shown(StrEnum):
    """What a list is narrowed to: a status, or what stands still."""

    PENDING = "pending"
    BLOCKED = "blocked"
    PUBLISHING = "publishing"
    SENT = "sent"
    FAILED = "failed"


Status = Annotated[Shown | None, Query(), Blank]
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
        partial(_page, operations),
        search,
        status=status,
        statuses=Shown,
        after=after,
        letter=_LIST,
        paused_since=await operations.paused_since(),
    )


async def _page(operations: Operations, *, status: Shown | None, **search: Any) -> Page[OutboxRow]:
    of_table = OutboxStatus(status.value) if status not in (None, Shown.BLOCKED) else None
    blocked = status is Shown.BLOCKED
    return await operations.outbox.page(status=of_table, blocked=blocked, **search)


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
