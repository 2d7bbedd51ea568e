"""Events that came in, and what became of them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from jetstream_bridge.inbox.tables import InboxStatus
from jetstream_bridge.operations.listed_rows import InboxRow
from jetstream_bridge.service.problems import problem_responses
from jetstream_bridge.web.admin import cursors
from jetstream_bridge.web.admin.access import AdminRoute, Limit, OperationsDep, RowKey, Text
from jetstream_bridge.web.admin.content import Body, TryView, body_of, event_of, tries_of

router = APIRouter(prefix="/inbox", tags=["admin: inbox"], route_class=AdminRoute)

_LIST = "i"
After = Annotated[str | None, cursors.after(_LIST)]


class InboxItem(BaseModel):
    """An event as one durable consumer met it, without what it carries."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    consumer: str
    event_id: str
    event_type: str | None
    resource: str | None = Field(description="Null where the envelope's beginning does not tell")
    subject: str
    status: InboxStatus
    deliveries: int
    last_error: str | None
    stream: str | None
    stream_seq: int | None
    parked: bool = Field(description="The event is kept here and not as a dead letter")
    received_at: datetime
    processed_at: datetime | None
    created_at: datetime
    updated_at: datetime


class InboxEventView(InboxItem):
    """An event that came in, whole."""

    payload: dict[str, Any] | None = Field(description="The envelope; null where it is none")
    headers: dict[str, Any]
    tries: list[TryView] = Field(description="Those that failed, the last ten at most")
    body: Body | None = Field(description="The message of a parked event, or no JSON object")


class InboxPage(BaseModel):
    items: list[InboxItem]
    next: str | None


@router.get("", summary="Events that came in, newest first")
async def list_inbox(
    operations: OperationsDep,
    status: InboxStatus | None = None,
    event_id: Text = None,
    resource: Text = None,
    event_type: Text = None,
    limit: Limit = 50,
    after: After = None,
) -> InboxPage:
    page = await operations.inbox.page(
        status=status,
        event_id=event_id,
        resource=resource,
        event_type=event_type,
        after=cursors.decode(after),
        limit=limit,
    )
    items = [InboxItem.model_validate(row) for row in page.items]
    return InboxPage(items=items, next=cursors.encode(_LIST, page.next))


@router.get("/{id:int}", summary="One event that came in, whole", responses=problem_responses(404))
async def get_inbox_event(id: RowKey, operations: OperationsDep) -> InboxEventView:
    return _view(await operations.inbox_row(id))


@router.post(
    "/{id:int}/replay",
    summary="Hand a parked event to the worker again",
    responses=problem_responses(404, 409),
)
async def replay_parked(id: RowKey, operations: OperationsDep) -> InboxEventView:
    return _view(await operations.replay_parked(id))


def _view(row: InboxRow) -> InboxEventView:
    payload = event_of(row.payload)
    content = row.body
    if content is None and payload is None and row.payload is not None:
        content = row.payload.encode()
    return InboxEventView(
        **InboxItem.model_validate(row).model_dump(),
        payload=payload,
        headers=dict(row.headers or {}),
        tries=tries_of(row.tries),
        body=body_of(content) if content is not None else None,
    )
