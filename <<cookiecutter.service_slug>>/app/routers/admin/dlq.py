"""Dead letters: read without consuming them, put back, thrown away."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from app.bridge.letter import DeadLetter
from app.bridge.letter_box import Choice
from app.problems import problem_responses
from app.routers.admin import cursors
from app.routers.admin.access import AdminRoute, Limit, OperationsDep, Sequence, Text
from app.routers.admin.content import Body, body_of, event_of
from app.strict import ALSO_INTEGRAL_FLOATS

router = APIRouter(prefix="/dlq", tags=["admin: dead letters"], route_class=AdminRoute)

_LIST = "d"
After = Annotated[str | None, cursors.after(_LIST)]


class DeadLetterView(BaseModel):
    """A dead letter: the event, and why it could not be handled."""

    sequence: int = Field(description="Of the letter in the stream; it names the letter here")
    subject: str | None = Field(description="Of the event, and where a replay puts it")
    reason: str
    error: str
    error_class: str
    deliveries: int
    time: datetime = Field(description="When the stream stored the letter")
    event_id: str | None
    event_type: str | None = Field(description="As a handler is registered for it")
    resource: str | None
    consumer: str = Field(description="The durable consumer that gave it up")
    event: dict[str, Any] | None = Field(description="The envelope; null where `body` has it")
    body: Body | None = Field(description="What is no JSON object, or cannot be shown as one")


class WholeDeadLetterView(DeadLetterView):
    """A dead letter with its headers, and whether it can go back."""

    headers: dict[str, str]
    obstacle: str | None = Field(description="Why it cannot be replayed as it is")


class DeadLetterPage(BaseModel):
    items: list[DeadLetterView]
    next: str | None


class Selection(BaseModel):
    """Which dead letters are replayed, oldest first, and how fast."""

    model_config = ConfigDict(extra="forbid", strict=True)

    limit: Annotated[StrictInt, Field(ge=1, le=10_000), ALSO_INTEGRAL_FLOATS]
    reason: Annotated[str | None, Field(max_length=100)] = None
    event_type: Annotated[str | None, Field(max_length=255)] = None
    rate: Annotated[float | None, Field(gt=0, le=10_000, description="The most in a second")] = None
    dry_run: bool = False


class ReplayedView(BaseModel):
    replayed: int = Field(description="With `dry_run`: how many would be replayed")
    skipped: int = Field(description="Letters that cannot be replayed as they are")
    more: bool = Field(description="The limit or the time was used up; ask again for the others")
    dry_run: bool


@router.get("", summary="Dead letters, oldest first")
async def list_dead_letters(
    operations: OperationsDep,
    reason: Text = None,
    event_type: Text = None,
    limit: Limit = 50,
    after: After = None,
) -> DeadLetterPage:
    page = await operations.letters(
        after=cursors.decode(after) or 0, limit=limit, choice=Choice(reason, event_type)
    )
    items = [DeadLetterView(**_fields(letter)) for letter in page.items]
    return DeadLetterPage(items=items, next=cursors.encode(_LIST, page.next))


@router.post("/replay", summary="Put many events back onto their subjects")
async def replay_many(selection: Selection, operations: OperationsDep) -> ReplayedView:
    done = await operations.replay_many(
        limit=selection.limit,
        choice=Choice(selection.reason, selection.event_type),
        rate=selection.rate,
        dry_run=selection.dry_run,
    )
    return ReplayedView(
        replayed=done.replayed, skipped=done.skipped, more=done.more, dry_run=selection.dry_run
    )


@router.get("/{sequence:int}", summary="One dead letter, whole", responses=problem_responses(404))
async def get_dead_letter(sequence: Sequence, operations: OperationsDep) -> WholeDeadLetterView:
    letter = await operations.letter(sequence)
    return WholeDeadLetterView(
        **_fields(letter),
        headers=dict(letter.metadata.headers),
        obstacle=operations.obstacle(letter),
    )


@router.post(
    "/{sequence:int}/replay",
    summary="Put one event back onto its subject, then remove the letter",
    responses=problem_responses(404, 409),
)
async def replay(sequence: Sequence, operations: OperationsDep) -> ReplayedView:
    await operations.replay(sequence)
    return ReplayedView(replayed=1, skipped=0, more=False, dry_run=False)


@router.delete(
    "/{sequence:int}",
    status_code=204,
    summary="Throw one dead letter away",
    responses=problem_responses(404),
)
async def discard(sequence: Sequence, operations: OperationsDep) -> None:
    await operations.discard_letter(sequence)


def _fields(letter: DeadLetter) -> dict[str, Any]:
    event = event_of(letter.body)
    known = letter.event
    return {
        "sequence": letter.metadata.sequence,
        "subject": letter.original_subject or None,
        "reason": letter.reason,
        "error": letter.error,
        "error_class": letter.error_class,
        "deliveries": letter.deliveries,
        "time": letter.metadata.timestamp,
        "event_id": letter.event_id or None,
        "event_type": known.type if known is not None else None,
        "resource": f"{known.resource_type}:{known.resource_id}" if known is not None else None,
        "consumer": letter.consumer,
        "event": event,
        "body": body_of(letter.body) if event is None else None,
    }
