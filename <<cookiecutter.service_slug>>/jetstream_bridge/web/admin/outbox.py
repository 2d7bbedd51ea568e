"""Events on their way out: looked at, sent again, discarded; relaying paused and resumed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.convertors import Convertor, register_url_convertor

from jetstream_bridge.operations.listed_rows import OutboxRow
from jetstream_bridge.outbox.tables import OutboxStatus
from jetstream_bridge.service.problems import problem_responses
from jetstream_bridge.web.admin import cursors
from jetstream_bridge.web.admin.access import AdminRoute, EventId, Limit, OperationsDep, Text
from jetstream_bridge.web.admin.content import Body, TryView, body_of, event_of, tries_of

router = APIRouter(prefix="/outbox", tags=["admin: outbox"], route_class=AdminRoute)

_LIST = "o"


class _EventIdConvertor(Convertor[str]):
    """An event id in a path: slashes too, and not the names of the routes beside it.

    An event that is called so is found with `GET /admin/outbox?event_id=`.
    """

    regex = "(?!(?:stats|retry|pause|resume)$).+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("event", _EventIdConvertor())

After = Annotated[str | None, cursors.after(_LIST)]


class OutboxItem(BaseModel):
    """An event in the outbox, without what it carries."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    event_id: str
    event_type: str | None
    resource: str = Field(description="`{resource_type}:{resource_id}`, whose events keep order")
    subject: str
    status: OutboxStatus
    attempts: int
    last_error: str | None
    held: bool = Field(description="It waits for its next try, or behind an event that does")
    retry_at: datetime | None
    enqueued_at: datetime
    sent_at: datetime | None
    created_at: datetime
    updated_at: datetime


class OutboxEventView(OutboxItem):
    """An event in the outbox, whole."""

    payload: dict[str, Any] | None = Field(description="The envelope; null where `body` has it")
    headers: dict[str, Any]
    tries: list[TryView] = Field(description="Those that failed, the last ten at most")
    body: Body | None = Field(description="An envelope that cannot be shown as JSON")


class OutboxPage(BaseModel):
    items: list[OutboxItem]
    next: str | None


class OutboxStatsView(BaseModel):
    pending: int
    failed: int
    sent: int
    oldest_pending_seconds: float | None
    paused: bool
    paused_since: datetime | None


class Retried(BaseModel):
    retried: int


class PauseView(BaseModel):
    paused: bool
    paused_since: datetime | None


@router.get("", summary="Events, newest first")
async def list_outbox(
    operations: OperationsDep,
    status: OutboxStatus | None = None,
    event_id: Text = None,
    resource: Text = None,
    event_type: Text = None,
    blocked: bool = False,
    limit: Limit = 50,
    after: After = None,
) -> OutboxPage:
    page = await operations.outbox.page(
        status=status,
        event_id=event_id,
        resource=resource,
        event_type=event_type,
        blocked=blocked,
        after=cursors.decode(after),
        limit=limit,
    )
    items = [OutboxItem.model_validate(row) for row in page.items]
    return OutboxPage(items=items, next=cursors.encode(_LIST, page.next))


@router.get("/stats", summary="How many events there are, by what is to become of them")
async def outbox_stats(operations: OperationsDep) -> OutboxStatsView:
    stats = await operations.outbox_stats()
    since = await operations.paused_since()
    return OutboxStatsView(
        pending=stats.pending,
        failed=stats.failed,
        sent=stats.sent,
        oldest_pending_seconds=stats.oldest_pending_seconds,
        paused=since is not None,
        paused_since=since,
    )


@router.post("/retry", summary="Send every failed event again")
async def retry_failed(operations: OperationsDep) -> Retried:
    return Retried(retried=await operations.retry_failed())


@router.post("/pause", summary="Stop relaying on every replica")
async def pause(operations: OperationsDep) -> PauseView:
    since = await operations.pause()
    return PauseView(paused=since is not None, paused_since=since)


@router.post("/resume", summary="Relay again on every replica")
async def resume(operations: OperationsDep) -> PauseView:
    since = await operations.resume()
    return PauseView(paused=since is not None, paused_since=since)


@router.get("/{event_id:event}", summary="One event, whole", responses=problem_responses(404))
async def get_outbox_event(event_id: EventId, operations: OperationsDep) -> OutboxEventView:
    return _view(await operations.outbox_row(event_id))


@router.post(
    "/{event_id:event}/retry", summary="Send one event now", responses=problem_responses(404, 409)
)
async def retry(event_id: EventId, operations: OperationsDep) -> OutboxEventView:
    return _view(await operations.retry(event_id))


@router.delete(
    "/{event_id:event}",
    status_code=204,
    summary="Discard an event that is not sent",
    responses=problem_responses(404, 409),
)
async def discard(event_id: EventId, operations: OperationsDep) -> None:
    await operations.discard(event_id)


def _view(row: OutboxRow) -> OutboxEventView:
    payload = event_of(row.payload)
    return OutboxEventView(
        **OutboxItem.model_validate(row).model_dump(),
        payload=payload,
        headers=dict(row.headers or {}),
        tries=tries_of(row.tries),
        body=body_of((row.payload or "").encode()) if payload is None else None,
    )
