"""`inbox …`: events that came in, and what became of them. Only `replay` needs NATS."""

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
from jetstream_bridge.cli.output import AsJson
from jetstream_bridge.cli.relative_times import age
from jetstream_bridge.cli.service import Service
from jetstream_bridge.cli.table import Column, Row
from jetstream_bridge.inbox.tables import InboxStatus
from jetstream_bridge.web.admin import inbox as api

commands = group(
    "Events that came in: look, and hand parked ones to the worker again.",
    example="python -m app.cli inbox list --status failed",
)

RowId = Annotated[int, typer.Argument(metavar="ID", min=1, help="The row's number.")]
StatusOption = Annotated[
    InboxStatus | None, typer.Option("--status", help="Events in this status only.")
]

_COLUMNS = (
    Column("ID", numeric=True),
    Column("AGE", numeric=True),
    Column("EVENT ID", shrinks=True),
    Column("TYPE", shrinks=True),
    Column("RESOURCE", shrinks=True, keeps_end=True),
    Column("STATUS"),
    Column("DELIVERIES", numeric=True),
)


@commands.command("list", epilog="Example: python -m app.cli inbox list --status failed")
def list_events(
    status: StatusOption = None,
    resource: Resource = None,
    event_id: EventIdOption = None,
    event_type: EventTypeOption = None,
    limit: Limit = 50,
    after: After = None,
    as_json: AsJson = False,
) -> None:
    """List events, newest first, with the error that each met last."""
    named = checked_resource(resource)
    cursor = checked_cursor(api.After, after)

    async def ask(service: Service) -> api.InboxPage:
        return await api.list_inbox(
            service.operations, status, event_id, named, event_type, limit, cursor
        )

    kind = f"{status.value} events" if status is not None else "events"
    show_page(ask, _COLUMNS, _row, empty=f"no {kind} in the inbox", as_json=as_json)


@commands.command(epilog="Example: python -m app.cli inbox show 17")
def show(id: RowId, as_json: AsJson = False) -> None:
    """Show one event whole."""
    act(lambda service: api.get_inbox_event(id, service.operations), whole, as_json=as_json)


@commands.command(epilog="Example: python -m app.cli inbox replay 17")
def replay(id: RowId, as_json: AsJson = False) -> None:
    """Hand a parked event to the worker again; it is put back into the stream."""

    async def back(service: Service) -> api.InboxEventView:
        await service.connect()
        return await api.replay_parked(id, service.operations)

    act(
        back,
        lambda view: f"event {view.event_id} is back on {view.subject}; the worker takes it",
        as_json=as_json,
    )


def _row(item: api.InboxItem) -> Row:
    parked = f"parked here; hand it over again: inbox replay {item.id}" if item.parked else None
    return Row(
        (
            str(item.id),
            age(item.received_at),
            item.event_id,
            item.event_type or "-",
            item.resource or "-",
            item.status.value,
            str(item.deliveries),
        ),
        remark="; ".join(text for text in (item.last_error, parked) if text) or None,
    )
