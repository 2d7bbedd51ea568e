"""Dead letters: why and where, the event itself; replayed one, some, or all; thrown away."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request, Response

from app.bridge.errors import NotFoundError, NotPossibleError, PublishRefusedError
from app.bridge.letter_box import Choice, Replayed
from app.console.forms import FormDep
from app.console.notices import done
from app.console.pages.access import ConsoleRoute, Filter, OperationsDep
from app.console.places import UNDER
from app.console.rendering import Links, page
from app.console.texts import number
from app.operations import Operations
from app.routers.admin import cursors
from app.routers.admin.access import Sequence
from app.routers.admin.dlq import After

PLACE = f"{UNDER}/dead-letters"
PAGE = 25  # letters; each is a request of its own
MOST = 10_000  # letters that one replay of all takes
# What the bridge writes as a reason; a letter of another program may have any.
REASONS = (
    "malformed_json",
    "invalid_envelope",
    "invalid_payload",
    "unrecoverable",
    "max_deliver",
    "unhandled",
)

router = APIRouter(prefix=PLACE, route_class=ConsoleRoute)


@router.get("")
async def find(
    request: Request,
    operations: OperationsDep,
    reason: Filter = None,
    event_type: Filter = None,
    after: After = None,
) -> Response:
    letters = await operations.letters(
        after=cursors.decode(after) or 0, limit=PAGE, choice=Choice(reason, event_type)
    )
    return page(
        request,
        "letters.html",
        letters=letters.items,
        obstacles={
            letter.metadata.sequence: operations.obstacle(letter) for letter in letters.items
        },
        chosen={"reason": reason, "event_type": event_type},
        reasons=REASONS,
        after=after,
        next=cursors.encode("d", letters.next),
    )


@router.get("/{sequence:int}")
async def show(request: Request, operations: OperationsDep, sequence: Sequence) -> Response:
    letter = await operations.letter(sequence)
    return page(request, "letter.html", letter=letter, obstacle=operations.obstacle(letter))


@router.post("/replay")
async def replay(request: Request, form: FormDep, operations: OperationsDep) -> Response:
    """Replay the letters that were chosen. One that cannot go back stays, and the others go."""
    sequences = form.numbers("sequence")
    if len(sequences) > PAGE:
        raise HTTPException(422, f"At most {PAGE} letters are chosen at once; replay all instead.")
    if not sequences:
        return done(request, PLACE, "No letter was chosen, so none was replayed.", tone="warn")
    if len(sequences) == 1:
        await operations.replay(sequences[0])
        return done(request, PLACE, f"Letter {sequences[0]} is back on its subject.")
    replayed, problem = await _replay_each(operations, sequences)
    left = len(sequences) - replayed
    text = f"{replayed} letters are back on their subjects."
    if problem is not None:
        return done(request, PLACE, f"{text} {left} are not: {problem}", tone="warn")
    return done(request, PLACE, text)


async def _replay_each(operations: Operations, sequences: list[int]) -> tuple[int, str | None]:
    """Return how many were replayed, and why the first of the others was not."""
    replayed, problem = 0, None
    for sequence in sequences:
        try:
            await operations.replay(sequence)
            replayed += 1
        except (NotFoundError, NotPossibleError, PublishRefusedError) as error:
            problem = problem or str(error)
    return replayed, problem


@router.get("/replay-all")
async def ask_to_replay_all(
    request: Request, operations: OperationsDep, reason: Filter = None, event_type: Filter = None
) -> Response:
    found = await operations.replay_many(
        limit=MOST, choice=Choice(reason, event_type), rate=None, dry_run=True
    )
    return page(request, "replay_all.html", found=found, reason=reason, event_type=event_type)


@router.post("/replay-all")
async def replay_all(request: Request, form: FormDep, operations: OperationsDep) -> Response:
    choice = Choice(form.text("reason"), form.text("event_type"))
    outcome = await operations.replay_many(limit=MOST, choice=choice, rate=None, dry_run=False)
    whole = not (outcome.skipped or outcome.more)
    return done(request, PLACE, _told(outcome), tone="ok" if whole else "warn")


@router.get("/{sequence:int}/discard")
async def ask_to_discard(
    request: Request, operations: OperationsDep, sequence: Sequence
) -> Response:
    letter = await operations.letter(sequence)
    links = Links(request)
    return page(
        request,
        "confirm.html",
        current="letters",
        title="Throw this letter away",
        text="The letter is deleted from the stream, and its event with it. This cannot be undone.",
        facts={
            "Letter": str(sequence),
            "Event": letter.event.type if letter.event is not None else "unreadable",
            "Event id": letter.event_id or "not told",
            "Reason": letter.reason,
        },
        action=links.to(f"dead-letters/{sequence}/discard"),
        fields=[],
        button="Throw the letter away",
        destructive=True,
        back=links.to(f"dead-letters/{sequence}"),
    )


@router.post("/{sequence:int}/discard")
async def discard(
    request: Request, _form: FormDep, operations: OperationsDep, sequence: Sequence
) -> Response:
    await operations.discard_letter(sequence)
    return done(request, PLACE, f"Letter {sequence} is thrown away.", tone="warn")


def _told(outcome: Replayed) -> str:
    text = f"{number(outcome.replayed)} letters are back on their subjects."
    if outcome.skipped:
        text += f" {number(outcome.skipped)} cannot go back as they are, and stay here."
    if outcome.more:
        text += " There are more: the time was used up, so replay all once more."
    return text
