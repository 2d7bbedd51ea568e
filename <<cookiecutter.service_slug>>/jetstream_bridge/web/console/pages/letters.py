"""Dead letters: why and where, the event itself; chosen ones replayed or discarded."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response

from jetstream_bridge.core.errors import NotFoundError, NotPossibleError, PublishRefusedError
from jetstream_bridge.events.dead_letter import DeadLetter
from jetstream_bridge.operations.dead_letter_queue import (
    LetterBreakdown,
    LetterFilter,
    LetterGroup,
    kind_of,
)
from jetstream_bridge.service.operator import Operations
from jetstream_bridge.web.admin import cursors
from jetstream_bridge.web.admin.access import Sequence
from jetstream_bridge.web.admin.dlq import After, kinds_of
from jetstream_bridge.web.console.flash_messages import done
from jetstream_bridge.web.console.formatting import number
from jetstream_bridge.web.console.forms import Form, FormDep
from jetstream_bridge.web.console.pages.access import ConsoleRoute, Filter, OperationsDep
from jetstream_bridge.web.console.rendering import Links, page
from jetstream_bridge.web.console.urls import UNDER

PLACE = f"{UNDER}/dead-letters"
PAGE = 25  # letters; each is a request of its own
# What the bridge writes as a reason; a letter of another program may have any.
REASONS = (
    "malformed_json",
    "invalid_envelope",
    "invalid_payload",
    "unrecoverable",
    "max_deliver",
    "no_handler",
)

router = APIRouter(prefix=PLACE, route_class=ConsoleRoute)

Since = Annotated[int | None, Query(ge=0, le=2**53)]


async def _letter_filter(
    reason: Filter = None,
    event_type: Filter = None,
    error_class: Filter = None,
    event_id: Filter = None,
    resource: Filter = None,
) -> LetterFilter:
    return LetterFilter(reason, event_type, error_class, event_id, resource)


LetterFilterDep = Annotated[LetterFilter, Depends(_letter_filter)]


@router.get("")
async def find(
    request: Request,
    operations: OperationsDep,
    letter_filter: LetterFilterDep,
    since: Since = None,
    replayed: Since = None,
    after: After = None,
) -> Response:
    """List letters, newest first. After a replay of so many, `since` which place it was."""
    mark = cursors.decode_letter(after)
    letters, breakdown = await asyncio.gather(
        operations.letters(after=mark, limit=PAGE, letter_filter=letter_filter, newest_first=True),
        operations.letter_breakdown(letter_filter),
    )
    returned = await operations.returned_letters(since) if since is not None else None
    return page(
        request,
        "letters.html",
        letters=letters.items,
        obstacles={
            letter.metadata.sequence: operations.obstacle(letter) for letter in letters.items
        },
        breakdown=breakdown,
        kinds=kinds_of(breakdown.every),
        options=_options(breakdown, letter_filter),
        chosen=asdict(letter_filter),
        narrowed=letter_filter.narrowed,
        replayed=replayed,
        since=since,
        returned=returned,
        after=after,
        next=cursors.encode_letter(letters.next),
    )


def _options(breakdown: LetterBreakdown, letter_filter: LetterFilter) -> dict[str, list[str]]:
    """What there is to choose from: what letters have, and what is chosen now."""
    kinds = breakdown.every
    classes = {kind.error_class for kind in kinds} | {letter_filter.error_class}
    types = {kind.event_type for kind in kinds} | {letter_filter.event_type}
    others = {kind.reason for kind in kinds} | {letter_filter.reason}
    return {
        "reason": [*REASONS, *sorted(filter(None, others - {*REASONS}))],
        "error_class": sorted(filter(None, classes)),
        "event_type": sorted(filter(None, types)),
    }


@router.get("/{sequence:int}")
async def show(request: Request, operations: OperationsDep, sequence: Sequence) -> Response:
    letter = await operations.letter(sequence)
    return page(request, "letter.html", letter=letter, obstacle=operations.obstacle(letter))


# --- the chosen


def chosen_in(form: Form) -> list[int]:
    """Return the sequences of the letters that are chosen in a form."""
    sequences = form.numbers("sequence")
    if len(sequences) > PAGE:
        raise HTTPException(422, f"At most {PAGE} letters are chosen at once; take all instead.")
    return sequences


@router.post("/replay")
async def replay(request: Request, form: FormDep, operations: OperationsDep) -> Response:
    """Replay the letters that were chosen. One that cannot go back stays, and the others go."""
    sequences = chosen_in(form)
    if not sequences:
        return done(request, PLACE, "No letter was chosen, so none was replayed.", tone="warn")
    if len(sequences) == 1:
        result = await operations.replay(sequences[0])
        text = f"Letter {sequences[0]} is back on its subject."
        return done(request, returned_to(result.last, 1), text)
    replayed, last, problem = await _replay_each(operations, sequences)
    left = len(sequences) - replayed
    text = f"{replayed} letters are back on their subjects."
    if problem is not None:
        return done(
            request, returned_to(last, replayed), f"{text} {left} are not: {problem}", tone="warn"
        )
    return done(request, returned_to(last, replayed), text)


def returned_to(since: int, replayed: int) -> str:
    """Where it is said how many of the replayed events failed again."""
    return f"{PLACE}?since={since}&replayed={replayed}" if replayed else PLACE


async def _replay_each(operations: Operations, sequences: list[int]) -> tuple[int, int, str | None]:
    """Return how many were replayed, where the stream ended, and what hindered the first other."""
    replayed, last, problem = 0, 0, None
    for sequence in sequences:
        try:
            result = await operations.replay(sequence)
            last = last or result.last
            replayed += 1
        except (NotFoundError, NotPossibleError, PublishRefusedError) as error:
            problem = problem or str(error)
    return replayed, last, problem


@router.post("/discard")
async def discard(request: Request, form: FormDep, operations: OperationsDep) -> Response:
    """Ask whether the chosen letters are to be discarded; do it when the answer was sent."""
    sequences = chosen_in(form)
    if not sequences:
        return done(request, PLACE, "No letter was chosen, so none was discarded.", tone="warn")
    if form.text("sure") is None:
        return await _ask_to_discard(request, operations, sequences)
    gone = 0
    for sequence in sequences:
        try:
            await operations.discard_letter(sequence)
            gone += 1
        except NotFoundError:
            continue  # somebody else was quicker
    left = len(sequences) - gone
    text = f"{number(gone)} {'letter is' if gone == 1 else 'letters are'} discarded."
    return done(request, PLACE, f"{text} {left} had gone already." if left else text, tone="warn")


async def _ask_to_discard(
    request: Request, operations: Operations, sequences: list[int]
) -> Response:
    letters = await _those(operations, sequences)
    if len(sequences) == 1 and not letters:
        raise HTTPException(404, f"There is no dead letter {sequences[0]} of this service.")
    kinds: Counter[LetterGroup] = Counter(map(kind_of, letters))
    links = Links(request)
    one = len(letters) == 1
    back = f"dead-letters/{sequences[0]}" if one else "dead-letters"
    fields: list[tuple[str, Any]] = [("sequence", one.metadata.sequence) for one in letters]
    return page(
        request,
        "bulk_action.html",
        title="Discard this letter" if one else f"Discard {len(letters)} letters",
        text="It is deleted from the stream, and its event with it. This cannot be undone."
        if one
        else "They are deleted from the stream, and their events with them. This cannot be undone.",
        kinds=kinds_of(kinds),
        facts=_facts(letters[0]) if one else {},
        action=links.to("dead-letters/discard"),
        fields=[*fields, ("sure", "yes")],
        button="Discard the letter" if one else f"Discard {len(letters)} letters",
        destructive=True,
        back=links.to(back),
    )


async def _those(operations: Operations, sequences: list[int]) -> list[DeadLetter]:
    """The letters that are still there."""
    found = await asyncio.gather(
        *(operations.letter(sequence) for sequence in sequences), return_exceptions=True
    )
    for one in found:
        if isinstance(one, BaseException) and not isinstance(one, NotFoundError):
            raise one
    return [one for one in found if isinstance(one, DeadLetter)]


def _facts(letter: DeadLetter) -> dict[str, str]:
    return {
        "Letter": str(letter.metadata.sequence),
        "Event": letter.event.type if letter.event is not None else "unreadable",
        "Event id": letter.event_id or "unknown",
        "Reason": letter.reason,
    }


@router.get("/{sequence:int}/discard")
async def ask_to_discard(
    request: Request, operations: OperationsDep, sequence: Sequence
) -> Response:
    return await _ask_to_discard(request, operations, [sequence])
