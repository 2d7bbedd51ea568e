"""`inbox …`: events that came in, and what became of them. Only `replay` needs NATS."""

from __future__ import annotations

from typing import Annotated

import typer

from app.bridge.inbox import InboxStatus
from app.commands.groups import group
from app.commands.listing import (
    After,
    EventIdOption,
    Limit,
    Resource,
    act,
    checked_cursor,
    show_page,
    whole,
)
from app.commands.moments import age
from app.commands.output import AsJson
from app.commands.service import Service
from app.commands.table import Column, Row
from app.routers.admin import inbox as api

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
    Column("STATUS"),
    Column("TRIES", numeric=True),
)


@commands.command("list", epilog="Example: python -m app.cli inbox list --status failed")
def list_events(
    status: StatusOption = None,
    resource: Resource = None,
    event_id: EventIdOption = None,
    limit: Limit = 50,
    after: After = None,
    as_json: AsJson = False,
) -> None:
    """List events, newest first, with the error that each met last."""
    cursor = checked_cursor(api.After, after)

    async def ask(service: Service) -> api.InboxPage:
        return await api.list_inbox(service.operations, status, event_id, resource, limit, cursor)

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
            item.status.value,
            str(item.deliveries),
        ),
        remark="; ".join(text for text in (item.last_error, parked) if text) or None,
    )
