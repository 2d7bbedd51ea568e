"""Looking through outbox or inbox: the same fields, pages and cursors for both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from fastapi import Depends, Request, Response

from app.bridge.listing import Page
from app.console.pages.access import Filter
from app.console.rendering import page
from app.routers.admin import cursors

PAGE = 50  # rows

Look = Callable[..., Awaitable[Page[Any]]]


@dataclass(frozen=True, slots=True)
class Search:
    """What somebody looks for, beside a status; None does not narrow it."""

    event_id: str | None
    resource: str | None


async def _search(event_id: Filter = None, resource: Filter = None) -> Search:
    return Search(event_id, resource)


SearchDep = Annotated[Search, Depends(_search)]


async def found(
    request: Request,
    template: str,
    look: Look,
    search: Search,
    *,
    status: StrEnum | None,
    statuses: Iterable[StrEnum],
    after: str | None,
    letter: str,
    paused_since: datetime | None = None,
) -> Response:
    """Show the page of rows behind the cursor `after`, whose list has this `letter`."""
    rows = await look(
        status=status,
        event_id=search.event_id,
        resource=search.resource,
        after=cursors.decode(after),
        limit=PAGE,
    )
    return page(
        request,
        template,
        rows=rows.items,
        chosen={"status": status, "event_id": search.event_id, "resource": search.resource},
        statuses=list(statuses),
        after=after,
        next=cursors.encode(letter, rows.next),
        paused_since=paused_since,
    )
