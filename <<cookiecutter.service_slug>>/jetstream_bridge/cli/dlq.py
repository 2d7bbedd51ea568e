"""`dlq …`: events that could not be handled. They are in the stream, so all of it needs NATS.

Reading consumes nothing. A replay puts the event back first and removes the letter then, so it may
be interrupted and begun again at any time.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from jetstream_bridge.cli.dlq_texts import (
    KINDS,
    breakdown_text,
    came_back,
    discarded,
    kind_rows,
    letter_row,
    of_all,
    replayed,
)
from jetstream_bridge.cli.groups import group
from jetstream_bridge.cli.listing import (
    After,
    EventIdOption,
    EventTypeOption,
    Limit,
    Resource,
    act,
    checked_cursor,
    checked_resource,
    show_page,
    whole,
)
from jetstream_bridge.cli.output import (
    AsJson,
    Status,
    Yes,
    answer,
    complain,
    confirm,
    fail,
    number_of,
)
from jetstream_bridge.cli.progress import Progress
from jetstream_bridge.cli.service import Service, run
from jetstream_bridge.cli.table import Column, table
from jetstream_bridge.operations.dead_letter_queue import BulkOperation, LetterFilter
from jetstream_bridge.service.operator import Operations
from jetstream_bridge.web.admin import dlq as api

commands = group(
    "Events that could not be handled: look, put them back, throw them away.",
    example="python -m app.cli dlq replay --all --reason unrecoverable --dry-run",
)

Sequence = Annotated[
    int, typer.Argument(metavar="SEQ", min=1, help="The letter's sequence in the stream.")
]
Reason = Annotated[
    str | None,
    typer.Option("--reason", help="Letters with this reason only, like invalid_payload."),
]
ErrorClass = Annotated[
    str | None,
    typer.Option("--error-class", metavar="CLASS", help="With this error only, like KeyError."),
]
OldestFirst = Annotated[
    bool, typer.Option("--oldest-first", help="In the order in which they are replayed.")
]
App = Annotated[
    str | None,
    typer.Option("--app", metavar="PEER", help="Letters of another service on the same stream."),
]

_COLUMNS = (
    Column("SEQ", numeric=True),
    Column("AGE", numeric=True),
    Column("REASON", shrinks=True),
    Column("CLASS", shrinks=True),
    Column("TYPE", shrinks=True),
    Column("RESOURCE", shrinks=True, keeps_end=True),
    Column("DELIVERIES", numeric=True),
)
_ALL = 1_000_000_000  # letters


@commands.command("list", epilog="Example: python -m app.cli dlq list --error-class KeyError")
def list_letters(
    reason: Reason = None,
    event_type: EventTypeOption = None,
    error_class: ErrorClass = None,
    event_id: EventIdOption = None,
    resource: Resource = None,
    oldest_first: OldestFirst = False,
    limit: Limit = 50,
    after: After = None,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters, newest first, with the error that each met last."""
    letter_filter = LetterFilter(
        reason, event_type, error_class, event_id, checked_resource(resource)
    )
    cursor = checked_cursor(api.After, after)
    order = api.Order.OLDEST if oldest_first else api.Order.NEWEST

    async def ask(service: Service) -> api.DeadLetterPage:
        operations = await _operations(service, app)
        return await api.list_dead_letters(
            operations, **asdict(letter_filter), order=order, limit=limit, after=cursor
        )

    empty = "no such dead letters" if letter_filter.narrowed else "no dead letters"
    show_page(ask, _COLUMNS, letter_row, empty=empty, as_json=as_json, below=of_all)


@commands.command(epilog="Example: python -m app.cli dlq kinds --event-type order.placed")
def kinds(
    reason: Reason = None,
    event_type: EventTypeOption = None,
    error_class: ErrorClass = None,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Count dead letters by reason, error class and event type."""
    letter_filter = LetterFilter(reason, event_type, error_class)

    async def ask(service: Service) -> api.BreakdownView:
        operations = await _operations(service, app)
        return await api.breakdown(operations, **asdict(letter_filter))

    act(ask, breakdown_text, as_json=as_json)


@commands.command(epilog="Example: python -m app.cli dlq returned 4711")
def returned(
    since: Annotated[
        int, typer.Argument(metavar="SEQ", min=0, help="What `dlq replay` told after its work.")
    ],
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Count the events replayed before SEQ that failed again, and are dead letters anew."""

    async def ask(service: Service) -> api.ReturnedView:
        operations = await _operations(service, app)
        return await api.returned(operations, since)

    act(ask, came_back, as_json=as_json)


@commands.command(epilog="Example: python -m app.cli dlq show 4711")
def show(sequence: Sequence, app: App = None, as_json: AsJson = False) -> None:
    """Show one dead letter whole, and whether it can go back."""

    async def ask(service: Service) -> api.WholeDeadLetterView:
        return await api.get_dead_letter(sequence, await _operations(service, app))

    act(ask, whole, as_json=as_json)


@commands.command(epilog="Example: python -m app.cli dlq replay --all --event-type order.placed")
def replay(
    sequence: Annotated[
        int | None,
        typer.Argument(metavar="SEQ", min=1, help="The letter's sequence in the stream."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All letters that are there now.")] = False,
    reason: Reason = None,
    event_type: EventTypeOption = None,
    error_class: ErrorClass = None,
    limit: Annotated[int | None, typer.Option(min=1, help="With --all: so many at most.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="With --all: so many in a second at most.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --all: count them, change nothing.")
    ] = False,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Put one event back onto its subject, or many; the worker handles it again.

    With --app it is the peer's worker, whether that runs the gem or not.
    """
    letter_filter = LetterFilter(reason, event_type, error_class)
    narrowed = dry_run or letter_filter.narrowed or limit is not None or rate is not None
    if (sequence is None) is not every or (narrowed and not every):
        fail("name one SEQ, or give --all, alone or with filters", Status.BAD_INPUT)
    if sequence is not None:
        _replay_one(sequence, app, as_json=as_json)
    else:
        _replay_many(letter_filter, app, limit=limit, rate=rate, dry_run=dry_run, as_json=as_json)


@commands.command(epilog="Example: python -m app.cli dlq discard 4711")
def discard(sequence: Sequence, yes: Yes = False, app: App = None, as_json: AsJson = False) -> None:
    """Throw one dead letter away for good."""
    confirm(f"Throw dead letter {sequence} away for good?", yes=yes)

    async def work(service: Service) -> Status:
        operations = await _operations(service, app)
        await operations.discard_letter(sequence)
        answer(f"dead letter {sequence} is gone", {"discarded": 1}, as_json=as_json)
        return Status.FINE

    run(work)


@commands.command(epilog="Example: python -m app.cli dlq purge --reason invalid_payload --yes")
def purge(
    reason: Reason = None,
    event_type: EventTypeOption = None,
    error_class: ErrorClass = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count them, change nothing.")] = False,
    yes: Yes = False,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Count dead letters, ask, and throw those away for good that were counted."""
    letter_filter = LetterFilter(reason, event_type, error_class)
    found = _purge(
        BulkOperation(limit=_ALL, letter_filter=letter_filter, dry_run=True),
        app,
        "counting",
        "counted",
    )
    if dry_run or not found.discarded:
        text = "no such dead letters" if not found.discarded else discarded(found)
        answer(text, found.model_dump(mode="json"), as_json=as_json)
        return
    if not yes:
        _show_kinds(found)
    confirm(f"Throw {number_of(found.discarded, 'dead letter')} away for good?", yes=yes)
    operation = BulkOperation(limit=_ALL, letter_filter=letter_filter, until=found.until)
    done = _purge(operation, app, "throwing away", "threw away", found.discarded)
    answer(discarded(done), done.model_dump(mode="json"), as_json=as_json)


def _show_kinds(found: api.DiscardedView) -> None:
    """Show whom a question is about: on stderr, where the question is."""
    for line in table(KINDS, kind_rows(found.kinds)).splitlines():
        complain(line)


async def _operations(service: Service, app: str | None) -> Operations:
    """Connect; return what asks for the letters of this service, or of the peer `app`."""
    operations = service.operations.for_letters_of(app)
    await service.connect()
    return operations


def _purge(
    operation: BulkOperation, app: str | None, doing: str, done: str, total: int | None = None
) -> api.DiscardedView:
    progress = Progress(doing, done)
    progress.total = total
    views: list[api.DiscardedView] = []

    async def work(service: Service) -> Status:
        operations = await _operations(service, app)
        with progress:
            result = await operations.discard_many(operation, lambda _: progress.advance())
        views.append(api.discarded_view(result, dry_run=operation.dry_run))
        return Status.FINE

    run(work, within=None, progress=None if operation.dry_run else progress)
    return views[0]


def _replay_one(sequence: int, app: str | None, *, as_json: bool) -> None:
    async def back(service: Service) -> api.ReplayedView:
        return await api.replay(sequence, await _operations(service, app))

    worker = "the worker" if app is None else app
    text = f"dead letter {sequence} is back on its subject; {worker} takes it"
    act(back, lambda _: text, as_json=as_json)


def _replay_many(
    letter_filter: LetterFilter,
    app: str | None,
    *,
    limit: int | None,
    rate: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    progress = Progress("counting" if dry_run else "replaying", "replayed")

    async def work(service: Service) -> Status:
        operations = await _operations(service, app)
        most = limit or max(1, await operations.letter_count())
        progress.total = limit if letter_filter.narrowed else most
        operation = BulkOperation(
            limit=most, letter_filter=letter_filter, rate=rate, dry_run=dry_run
        )
        with progress:
            done = await operations.replay_many(operation, lambda _: progress.advance())
        view = api.replayed_view(done, dry_run=dry_run)
        answer(replayed(view), view.model_dump(mode="json"), as_json=as_json)
        return Status.FINE

    # Each question to NATS has a limit of its own, and looking for the chosen ones takes its time.
    run(work, within=None, progress=None if dry_run else progress)
