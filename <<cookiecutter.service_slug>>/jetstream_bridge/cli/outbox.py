"""`outbox …`: events on their way out. Works while NATS is away.

Relays elsewhere notice what is done here by themselves, within a second.
"""

from __future__ import annotations

from typing import Annotated

import typer

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
from jetstream_bridge.cli.output import AsJson, Status, Yes, answer, confirm, fail, number_of
from jetstream_bridge.cli.progress import Progress
from jetstream_bridge.cli.relative_times import age, span, stamp, until
from jetstream_bridge.cli.service import Service, run
from jetstream_bridge.cli.table import Column, Row
from jetstream_bridge.core.durations import humanize, seconds
from jetstream_bridge.core.errors import ConfigurationError
from jetstream_bridge.outbox.tables import OutboxStatus
from jetstream_bridge.web.admin import outbox as api

commands = group(
    "Events on their way out: look, send again, discard, pause.",
    example="python -m app.cli outbox list --status failed",
)

EventId = Annotated[str, typer.Argument(metavar="EVENT_ID", help="The event's id.")]
StatusOption = Annotated[
    OutboxStatus | None, typer.Option("--status", help="Events in this status only.")
]

_COLUMNS = (
    Column("AGE", numeric=True),
    Column("EVENT ID"),
    Column("TYPE", shrinks=True),
    Column("RESOURCE", shrinks=True, keeps_end=True),
    Column("STATUS"),
    Column("TRIES", numeric=True),
)


@commands.command("list", epilog="Example: python -m app.cli outbox list --status failed")
def list_events(
    status: StatusOption = None,
    resource: Resource = None,
    event_id: EventIdOption = None,
    event_type: EventTypeOption = None,
    blocked: Annotated[
        bool, typer.Option("--blocked", help="Waiting for a retry, or behind an event that is.")
    ] = False,
    limit: Limit = 50,
    after: After = None,
    as_json: AsJson = False,
) -> None:
    """List events, newest first, with what keeps each from being sent."""
    named = checked_resource(resource)
    cursor = checked_cursor(api.After, after)

    async def ask(service: Service) -> api.OutboxPage:
        return await api.list_outbox(
            service.operations, status, event_id, named, event_type, blocked, limit, cursor
        )

    words = (status.value if status is not None else "", "blocked" if blocked else "", "events")
    kind = " ".join(filter(None, words))
    show_page(ask, _COLUMNS, _row, empty=f"no {kind} in the outbox", as_json=as_json)


@commands.command(epilog="Example: python -m app.cli outbox stats --json")
def stats(as_json: AsJson = False) -> None:
    """Count events by what is to become of them."""

    act(lambda service: api.outbox_stats(service.operations), _counted, as_json=as_json)


@commands.command(epilog="Example: python -m app.cli outbox show 0198c5a4-7c1e-7b7e-9c54-6f1d2a")
def show(event_id: EventId, as_json: AsJson = False) -> None:
    """Show one event whole."""
    act(lambda service: api.get_outbox_event(event_id, service.operations), whole, as_json=as_json)


@commands.command(epilog="Example: python -m app.cli outbox retry --failed")
def retry(
    event_id: Annotated[
        str | None, typer.Argument(metavar="EVENT_ID", help="The event's id.")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All events that failed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send an event now that failed or waits for its next try, or all that failed."""
    if (event_id is None) is not failed:
        fail("name one EVENT_ID, or give --failed for all that failed", Status.BAD_INPUT)
    if event_id is not None:
        named = event_id
        act(
            lambda service: api.retry(named, service.operations),
            lambda view: f"{view.event_id} will be sent now",
            as_json=as_json,
        )
        return
    progress = Progress("retrying", "retried")

    async def work(service: Service) -> Status:
        with progress:
            async for portion in service.operations.retrying_failed():
                progress.advance(portion)
                service.step()
        text = f"{number_of(progress.count, 'failed event')} will be sent now"
        answer(text, {"retried": progress.count}, as_json=as_json)
        return Status.FINE

    run(work, progress=progress)


@commands.command(epilog="Example: python -m app.cli outbox discard 0198c5a4-7c1e-7b7e-9c54-6f1d2a")
def discard(event_id: EventId, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete an event that is not sent; it will never be announced."""
    confirm(f"Discard event {event_id!r}? It will never be announced.", yes=yes)

    async def work(service: Service) -> Status:
        await service.operations.discard(event_id)
        answer(f"{event_id} is discarded", {"discarded": 1}, as_json=as_json)
        return Status.FINE

    run(work)


@commands.command(epilog="Example: python -m app.cli outbox purge --older-than 7d --yes")
def purge(
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than",
            metavar="DURATION",
            help="Sent longer ago than this, like 12h or 7d; OUTBOX_RETENTION unless given.",
        ),
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete the rows of events that were sent long ago, in portions; relays do it too."""
    given = _duration(older_than)
    old = f"more than {older_than} ago" if older_than else "longer ago than OUTBOX_RETENTION"
    confirm(f"Delete the rows of all events sent {old}?", yes=yes)
    progress = Progress("deleting sent events:", "deleted")

    async def work(service: Service) -> Status:
        seconds_ago = service.settings.outbox_retention if given is None else given
        with progress:
            async for portion in service.operations.purging_sent(older_than=seconds_ago):
                progress.advance(portion)
                service.step()
        rows = number_of(progress.count, "row")
        text = f"deleted {rows} of events sent more than {humanize(seconds_ago)} ago"
        answer(text, {"deleted": progress.count}, as_json=as_json)
        return Status.FINE

    run(work, progress=progress)


@commands.command(epilog="Example: python -m app.cli outbox pause")
def pause(as_json: AsJson = False) -> None:
    """Stop relaying on every replica; events are still written, and wait."""
    act(lambda service: api.pause(service.operations), _paused, as_json=as_json)


@commands.command(epilog="Example: python -m app.cli outbox resume")
def resume(as_json: AsJson = False) -> None:
    """Relay again on every replica."""
    act(lambda service: api.resume(service.operations), _paused, as_json=as_json)


def _duration(text: str | None) -> float | None:
    try:
        return None if text is None else seconds(text)
    except ConfigurationError as error:
        fail(f"--older-than {error}", Status.BAD_INPUT)


def _row(item: api.OutboxItem) -> Row:
    return Row(
        (
            age(item.enqueued_at),
            item.event_id,
            item.event_type or "-",
            item.resource,
            item.status.value,
            # The try that stored it failed not, so it is in no count.
            str(item.attempts + (item.status is OutboxStatus.SENT)),
        ),
        remark=_hindrance(item),
    )


def _hindrance(item: api.OutboxItem) -> str | None:
    """What keeps an event from being sent."""
    if item.status is OutboxStatus.SENT:
        return None
    if item.retry_at is not None:
        return f"next try in {until(item.retry_at)}: {item.last_error or 'no reason kept'}"
    if item.held:
        return "waits behind an earlier event of its resource"
    return item.last_error


def _counted(counts: api.OutboxStatsView) -> str:
    oldest = counts.oldest_pending_seconds
    waiting = "" if oldest is None else f"   the oldest waits for {span(oldest)}"
    helps = "   python -m app.cli outbox list --status failed" if counts.failed else ""
    width = max(len(str(number)) for number in (counts.pending, counts.failed, counts.sent))
    lines = [
        f"pending  {counts.pending:{width}}{waiting}",
        f"failed   {counts.failed:{width}}{helps}",
        f"sent     {counts.sent:{width}}",
    ]
    if counts.paused:
        lines.append(_paused(counts))
    return "\n".join(lines)


def _paused(view: api.OutboxStatsView | api.PauseView) -> str:
    if view.paused_since is None:
        return "relaying goes on"
    since = f"{stamp(view.paused_since)}, {age(view.paused_since)} ago"
    return f"relaying is paused since {since}; go on: python -m app.cli outbox resume"
