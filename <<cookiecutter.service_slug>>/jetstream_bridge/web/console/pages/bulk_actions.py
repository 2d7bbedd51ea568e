"""All dead letters of a filter: replayed or discarded, after what it comes to was shown."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Request, Response

from jetstream_bridge.operations.dead_letter_queue import BulkOperation, BulkResult, LetterFilter
from jetstream_bridge.service.operator import REPLAY_WITHIN
from jetstream_bridge.web.admin.dlq import kinds_of
from jetstream_bridge.web.console.flash_messages import done
from jetstream_bridge.web.console.formatting import number
from jetstream_bridge.web.console.forms import Form, FormDep
from jetstream_bridge.web.console.pages.access import ConsoleRoute, OperationsDep
from jetstream_bridge.web.console.pages.letters import PLACE, LetterFilterDep, returned_to
from jetstream_bridge.web.console.rendering import Links, page

MOST = 10_000  # letters that are taken at once

router = APIRouter(prefix=PLACE, route_class=ConsoleRoute)


def _bulk_operation(
    letter_filter: LetterFilter, *, dry_run: bool, until: int | None = None
) -> BulkOperation:
    return BulkOperation(
        limit=MOST, letter_filter=letter_filter, until=until, within=REPLAY_WITHIN, dry_run=dry_run
    )


def _filter_in(form: Form) -> LetterFilter:
    return LetterFilter(**{name: form.text(name) for name in asdict(LetterFilter())})


def _until_in(form: Form) -> int | None:
    return next(iter(form.numbers("until")), None)


@router.get("/replay-all")
async def ask_to_replay_all(
    request: Request, operations: OperationsDep, letter_filter: LetterFilterDep
) -> Response:
    found = await operations.replay_many(_bulk_operation(letter_filter, dry_run=True))
    one = found.count == 1
    text = (
        f"{'At least ' if found.more else ''}{number(found.count)} "
        f"{'event goes back onto its subject' if one else 'events go back onto their subjects'}, "
        f"oldest first, and {'is' if one else 'are'} handled again. What fails again comes back "
        "as a new letter."
        if found.count
        else "No letter can be replayed."
    )
    if found.skipped:
        text += f" {_cannot(found.skipped)}"
    return _ask(request, "replay", text, found, letter_filter)


@router.get("/discard-all")
async def ask_to_discard_all(
    request: Request, operations: OperationsDep, letter_filter: LetterFilterDep
) -> Response:
    found = await operations.discard_many(_bulk_operation(letter_filter, dry_run=True))
    one = found.count == 1
    text = (
        f"{'At least ' if found.more else ''}{number(found.count)} "
        f"{'letter is' if one else 'letters are'} deleted from the stream, and "
        f"{'its event with it' if one else 'their events with them'}. This cannot be undone. "
        "Letters that come meanwhile stay."
        if found.count
        else "There is no such letter."
    )
    return _ask(request, "discard", text, found, letter_filter)


def _ask(
    request: Request, verb: str, text: str, found: BulkResult, letter_filter: LetterFilter
) -> Response:
    links = Links(request)
    named = {name: value for name, value in asdict(letter_filter).items() if value is not None}
    whose = "all of these letters" if named else "all dead letters"
    least = "at least " if found.more else ""
    return page(
        request,
        "bulk_action.html",
        title=f"{verb.capitalize()} {whose}",
        text=text,
        kinds=kinds_of(found.kinds),
        facts={name.replace("_", " ").capitalize(): value for name, value in named.items()},
        action=links.to(f"dead-letters/{verb}-all"),
        fields=[*named.items(), *([("until", found.last)] if found.last else [])],
        button=f"{verb.capitalize()} {least}{number(found.count)}" if found.count else None,
        destructive=verb == "discard",
        back=links.to("dead-letters", **named),
    )


@router.post("/replay-all")
async def replay_all(request: Request, form: FormDep, operations: OperationsDep) -> Response:
    operation = _bulk_operation(_filter_in(form), dry_run=False, until=_until_in(form))
    outcome = await operations.replay_many(operation)
    whole = not (outcome.skipped or outcome.more)
    text = f"{number(outcome.count)} letters are back on their subjects."
    if outcome.skipped:
        text += f" {_cannot(outcome.skipped)}"
    to = returned_to(outcome.last, outcome.count)
    return done(request, to, text + _left(outcome), tone="ok" if whole else "warn")


@router.post("/discard-all")
async def discard_all(request: Request, form: FormDep, operations: OperationsDep) -> Response:
    operation = _bulk_operation(_filter_in(form), dry_run=False, until=_until_in(form))
    outcome = await operations.discard_many(operation)
    text = f"{number(outcome.count)} {'letter is' if outcome.count == 1 else 'letters are'}"
    return done(request, PLACE, f"{text} discarded.{_left(outcome)}", tone="warn")


def _cannot(skipped: int) -> str:
    one = skipped == 1
    return (
        f"{number(skipped)} cannot go back as {'it is' if one else 'they are'}, and "
        f"{'stays' if one else 'stay'} here."
    )


def _left(outcome: BulkResult) -> str:
    return (
        " The time limit of 20 s was reached and there are more: do it again."
        if (outcome.more)
        else ""
    )
