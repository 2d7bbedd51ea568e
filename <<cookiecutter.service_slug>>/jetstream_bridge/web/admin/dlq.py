"""Dead letters: read without consuming them, put back, thrown away."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from jetstream_bridge.events.dead_letter import DeadLetter
from jetstream_bridge.operations.dead_letter_queue import (
    BulkOperation,
    BulkResult,
    LetterFilter,
    LetterGroup,
)
from jetstream_bridge.service.operator import REPLAY_WITHIN
from jetstream_bridge.service.problems import problem_responses
from jetstream_bridge.web.admin import cursors
from jetstream_bridge.web.admin.access import AdminRoute, Limit, OperationsDep, Sequence, Text
from jetstream_bridge.web.admin.content import Body, body_of, event_of
from jetstream_bridge.web.strict import ALSO_INTEGRAL_FLOATS

router = APIRouter(prefix="/dlq", tags=["admin: dead letters"], route_class=AdminRoute)

After = Annotated[str | None, cursors.after_letter()]


class Order(StrEnum):
    """Which letters come first."""

    OLDEST = "oldest"
    NEWEST = "newest"


class DeadLetterView(BaseModel):
    """A dead letter: the event, and why it could not be handled."""

    sequence: int = Field(description="Of the letter in the stream; it names the letter here")
    subject: str | None = Field(description="Of the event, and where a replay puts it")
    reason: str
    error: str
    error_class: str
    raised_at: str = Field(
        description="The line of the service's own code; empty if none was in it"
    )
    deliveries: int
    time: datetime = Field(description="When the stream stored the letter")
    event_id: str | None
    event_type: str | None = Field(description="As a handler is registered for it")
    resource: str | None
    consumer: str = Field(description="The durable consumer that gave it up")
    replayed_from: int | None = Field(
        description="Sequence of the letter from whose replay it came; null at the first failure"
    )
    event: dict[str, Any] | None = Field(description="The envelope; null where `body` has it")
    body: Body | None = Field(description="What is no JSON object, or cannot be shown as one")


class WholeDeadLetterView(DeadLetterView):
    """A dead letter with its headers, and whether it can go back."""

    headers: dict[str, str]
    obstacle: str | None = Field(description="Why it cannot be replayed as it is")


class DeadLetterPage(BaseModel):
    items: list[DeadLetterView]
    next: str | None
    total: int = Field(description="Letters that there are, whatever was asked for")


class KindView(BaseModel):
    """Letters that failed for the same cause."""

    letters: int
    reason: str
    error_class: str
    event_type: str | None


class BreakdownView(BaseModel):
    """Letters by reason, error class and event type."""

    total: int = Field(description="Letters that there are")
    read: int = Field(description="The newest ones, as many as time permitted")
    matching: int = Field(description="Of those read")
    kinds: list[KindView]


class Selection(BaseModel):
    """Which dead letters are replayed, oldest first, and how fast."""

    model_config = ConfigDict(extra="forbid", strict=True)

    limit: Annotated[StrictInt, Field(ge=1, le=10_000), ALSO_INTEGRAL_FLOATS]
    reason: Annotated[str | None, Field(max_length=100)] = None
    event_type: Annotated[str | None, Field(max_length=255)] = None
    error_class: Annotated[str | None, Field(max_length=255)] = None
    event_id: Annotated[str | None, Field(max_length=255)] = None
    resource: Annotated[str | None, Field(max_length=600)] = None
    until: Annotated[
        StrictInt | None,
        Field(ge=1, description="The last sequence that is concerned"),
        ALSO_INTEGRAL_FLOATS,
    ] = None
    rate: Annotated[float | None, Field(gt=0, le=10_000, description="The most in a second")] = None
    dry_run: bool = False


class ReplayedView(BaseModel):
    replayed: int = Field(description="With `dry_run`: how many would be replayed")
    skipped: int = Field(description="Letters that cannot be replayed as they are")
    more: bool = Field(description="The limit or the time was used up; ask again for the others")
    dry_run: bool
    since: int = Field(description="The stream's last sequence when it began; see `/returned`")
    kinds: list[KindView] = Field(description="What was replayed")


class DiscardedView(BaseModel):
    discarded: int
    more: bool
    dry_run: bool
    until: int = Field(description="The last sequence that was concerned")
    kinds: list[KindView]


class ReturnedView(BaseModel):
    """Events that were replayed, failed again, and are letters anew."""

    returned: int
    more: bool = Field(description="The time was used up; there may be further ones")
    kinds: list[KindView]


@router.get("", summary="Dead letters, in either order", responses=problem_responses(409))
async def list_dead_letters(
    operations: OperationsDep,
    reason: Text = None,
    event_type: Text = None,
    error_class: Text = None,
    event_id: Text = None,
    resource: Text = None,
    order: Order = Order.OLDEST,
    limit: Limit = 50,
    after: After = None,
) -> DeadLetterPage:
    page = await operations.letters(
        after=cursors.decode_letter(after),
        limit=limit,
        letter_filter=LetterFilter(reason, event_type, error_class, event_id, resource),
        newest_first=order is Order.NEWEST,
    )
    items = [DeadLetterView(**_fields(letter)) for letter in page.items]
    return DeadLetterPage(items=items, next=cursors.encode_letter(page.next), total=page.total)


@router.get("/kinds", summary="How many dead letters there are, by cause")
async def breakdown(
    operations: OperationsDep,
    reason: Text = None,
    event_type: Text = None,
    error_class: Text = None,
    event_id: Text = None,
    resource: Text = None,
) -> BreakdownView:
    letter_filter = LetterFilter(reason, event_type, error_class, event_id, resource)
    found = await operations.letter_breakdown(letter_filter)
    return BreakdownView(
        total=found.total, read=found.read, matching=found.matching, kinds=kinds_of(found.kinds)
    )


@router.get("/returned", summary="Events that were replayed and are dead letters anew")
async def returned(
    operations: OperationsDep, since: Annotated[int, Query(ge=0, le=2**53)]
) -> ReturnedView:
    found = await operations.returned_letters(since)
    return ReturnedView(returned=found.count, more=found.more, kinds=kinds_of(found.kinds))


@router.post("/replay", summary="Put many events back onto their subjects")
async def replay_many(selection: Selection, operations: OperationsDep) -> ReplayedView:
    operation = BulkOperation(
        limit=selection.limit,
        letter_filter=LetterFilter(
            selection.reason,
            selection.event_type,
            selection.error_class,
            selection.event_id,
            selection.resource,
        ),
        until=selection.until,
        rate=selection.rate,
        within=REPLAY_WITHIN,
        dry_run=selection.dry_run,
    )
    return replayed_view(await operations.replay_many(operation), dry_run=selection.dry_run)


def replayed_view(done: BulkResult, *, dry_run: bool) -> ReplayedView:
    return ReplayedView(
        replayed=done.count,
        skipped=done.skipped,
        more=done.more,
        dry_run=dry_run,
        since=done.last,
        kinds=kinds_of(done.kinds),
    )


def discarded_view(done: BulkResult, *, dry_run: bool) -> DiscardedView:
    return DiscardedView(
        discarded=done.count,
        more=done.more,
        dry_run=dry_run,
        until=done.last,
        kinds=kinds_of(done.kinds),
    )


def kinds_of(kinds: Counter[LetterGroup]) -> list[KindView]:
    """Return the kinds, the most frequent first."""
    return [
        KindView(
            letters=number,
            reason=kind.reason,
            error_class=kind.error_class,
            event_type=kind.event_type,
        )
        for kind, number in kinds.most_common()
    ]


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
    return replayed_view(await operations.replay(sequence), dry_run=False)


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
        "raised_at": letter.raised_at,
        "deliveries": letter.deliveries,
        "time": letter.metadata.timestamp,
        "event_id": letter.event_id or None,
        "event_type": known.type if known is not None else None,
        "resource": letter.resource,
        "consumer": letter.consumer,
        "replayed_from": letter.replayed_from,
        "event": event,
        "body": body_of(letter.body) if event is None else None,
    }
