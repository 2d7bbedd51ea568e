"""`dlq …`: events that could not be handled. They are in the stream, so all of it needs NATS.

Reading consumes nothing. A replay puts the event back first and removes the letter then, so it may
be interrupted and begun again at any time.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from app.bridge.letter import DeadLetter
from app.bridge.letter_box import Choice, Replayed
from app.commands.groups import group
from app.commands.listing import After, Limit, act, checked_cursor, show_page, whole
from app.commands.moments import age
from app.commands.output import AsJson, Status, Yes, answer, confirm, fail, number_of
from app.commands.progress import Progress
from app.commands.service import Service, run
from app.commands.table import Column, Row, table
from app.routers.admin import dlq as api

commands = group(
    "Events that could not be handled: look, put them back, throw them away.",
    example="python -m app.cli dlq replay --all --reason unrecoverable --dry-run",
)

Sequence = Annotated[int, typer.Argument(metavar="SEQ", min=1, help="Its place in the stream.")]
Reason = Annotated[
    str | None,
    typer.Option("--reason", help="Letters with this reason only, like invalid_payload."),
]
EventType = Annotated[
    str | None, typer.Option("--event-type", metavar="TYPE", help="Of this event type only.")
]

_COLUMNS = (
    Column("SEQ", numeric=True),
    Column("AGE", numeric=True),
    Column("REASON", shrinks=True),
    Column("TYPE", shrinks=True),
    Column("RESOURCE", shrinks=True, keeps_end=True),
    Column("TRIES", numeric=True),
)
_KINDS = (Column("LETTERS", numeric=True), Column("REASON"), Column("TYPE", shrinks=True))
_PAGE = 100  # letters


@commands.command("list", epilog="Example: python -m app.cli dlq list --reason invalid_payload")
def list_letters(
    reason: Reason = None,
    event_type: EventType = None,
    limit: Limit = 50,
    after: After = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters, oldest first, with the error that each met last."""
    cursor = checked_cursor(api.After, after)

    async def ask(service: Service) -> api.DeadLetterPage:
        await service.connect()
        return await api.list_dead_letters(service.operations, reason, event_type, limit, cursor)

    empty = "no such dead letters" if reason or event_type else "no dead letters"
    show_page(ask, _COLUMNS, _row, empty=empty, as_json=as_json)


@commands.command(epilog="Example: python -m app.cli dlq show 4711")
def show(sequence: Sequence, as_json: AsJson = False) -> None:
    """Show one dead letter whole, and whether it can go back."""

    async def ask(service: Service) -> api.WholeDeadLetterView:
        await service.connect()
        return await api.get_dead_letter(sequence, service.operations)

    act(ask, whole, as_json=as_json)


@commands.command(epilog="Example: python -m app.cli dlq replay --all --event-type order.placed")
def replay(
    sequence: Annotated[
        int | None, typer.Argument(metavar="SEQ", min=1, help="Its place in the stream.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All letters that are there now.")] = False,
    reason: Reason = None,
    event_type: EventType = None,
    limit: Annotated[int | None, typer.Option(min=1, help="With --all: so many at most.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="With --all: so many in a second at most.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --all: count them, change nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put one event back onto its subject, or many; the worker handles it again."""
    narrowed = dry_run or any(o is not None for o in (reason, event_type, limit, rate))
    if (sequence is None) is not every or (narrowed and not every):
        fail("name one SEQ, or give --all, alone or with filters", Status.BAD_INPUT)
    if sequence is not None:
        _replay_one(sequence, as_json=as_json)
    else:
        choice = Choice(reason, event_type)
        _replay_many(choice, limit=limit, rate=rate, dry_run=dry_run, as_json=as_json)


@commands.command(epilog="Example: python -m app.cli dlq discard 4711")
def discard(sequence: Sequence, yes: Yes = False, as_json: AsJson = False) -> None:
    """Throw one dead letter away for good."""
    confirm(f"Throw dead letter {sequence} away for good?", yes=yes)

    async def work(service: Service) -> Status:
        await service.connect()
        await service.operations.discard_letter(sequence)
        answer(f"dead letter {sequence} is gone", {"discarded": 1}, as_json=as_json)
        return Status.FINE

    run(work)


@commands.command(epilog="Example: python -m app.cli dlq purge --reason invalid_payload --yes")
def purge(
    reason: Reason = None,
    event_type: EventType = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Count dead letters, ask, and throw those away for good that were counted."""
    found = _found(Choice(reason, event_type))
    if not found:
        answer("no such dead letters", {"discarded": 0}, as_json=as_json)
        return
    confirm(f"Throw {number_of(len(found), 'dead letter')} away for good?", yes=yes)
    progress = Progress("throwing away", "threw away")
    progress.total = len(found)

    async def work(service: Service) -> Status:
        await service.connect()
        with progress:
            async for _ in service.operations.discarding_letters(found):
                progress.advance()
                service.step()
        text = f"threw {number_of(progress.count, 'dead letter')} away"
        answer(text, {"discarded": progress.count}, as_json=as_json)
        return Status.FINE

    run(work, progress=progress)


def _found(choice: Choice) -> list[int]:
    """The sequences of the letters that `choice` takes, as of now."""
    found: list[int] = []
    progress = Progress("looking for dead letters:", "found")

    async def work(service: Service) -> Status:
        await service.connect()
        after: int | None = 0
        with progress:
            while after is not None:
                page = await service.operations.letters(after=after, limit=_PAGE, choice=choice)
                found.extend(letter.metadata.sequence for letter in page.items)
                progress.advance(len(page.items))
                service.step()
                after = page.next
        return Status.FINE

    run(work)
    return found


def _replay_one(sequence: int, *, as_json: bool) -> None:
    async def back(service: Service) -> api.ReplayedView:
        await service.connect()
        return await api.replay(sequence, service.operations)

    text = f"dead letter {sequence} is back on its subject; the worker takes it"
    act(back, lambda _: text, as_json=as_json)


def _replay_many(
    choice: Choice, *, limit: int | None, rate: float | None, dry_run: bool, as_json: bool
) -> None:
    progress = Progress("counting" if dry_run else "replaying", "replayed")
    kinds: Counter[tuple[str, str]] = Counter()

    def note(letter: DeadLetter) -> None:
        kinds[letter.reason, letter.event.type if letter.event else "-"] += 1
        progress.advance()

    async def work(service: Service) -> Status:
        await service.connect()
        most = limit or max(1, await service.operations.letter_count())
        progress.total = most if choice == Choice() else limit
        with progress:
            done = await service.operations.replay_many(
                limit=most,
                choice=choice,
                rate=rate,
                dry_run=dry_run,
                within=None,
                on_letter=note,
            )
        view = api.ReplayedView(
            replayed=done.replayed, skipped=done.skipped, more=done.more, dry_run=dry_run
        )
        answer(_replayed(done, kinds, dry_run), view.model_dump(mode="json"), as_json=as_json)
        return Status.FINE

    # Each question to NATS has a limit of its own, and looking for the chosen ones takes its time.
    run(work, within=None, progress=None if dry_run else progress)


def _replayed(done: Replayed, kinds: Counter[tuple[str, str]], dry_run: bool) -> str:
    did = "would replay" if dry_run else "replayed"
    lines = [f"{did} {number_of(done.replayed, 'dead letter')}"]
    if done.skipped:
        lines.append(
            f"skipped {done.skipped} that cannot go back as they are; dlq show SEQ says why"
        )
    if done.more:
        lines.append("there are more: the limit was reached")
    if kinds:
        rows = [Row((str(number), *kind)) for kind, number in kinds.most_common()]
        lines += ["", table(_KINDS, rows)]
    return "\n".join(lines)


def _row(item: api.DeadLetterView) -> Row:
    return Row(
        (
            str(item.sequence),
            age(item.time),
            item.reason,
            item.event_type or "-",
            item.resource or "-",
            str(item.deliveries),
        ),
        remark=item.error,
    )
