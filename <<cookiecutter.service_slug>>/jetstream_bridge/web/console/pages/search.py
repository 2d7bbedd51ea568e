"""Looking through outbox or inbox: the same fields, pages and cursors for both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Annotated, Any

from fastapi import Depends, Request, Response

from jetstream_bridge.operations.listing import Page
from jetstream_bridge.web.admin import cursors
from jetstream_bridge.web.console.pages.access import Filter
from jetstream_bridge.web.console.rendering import page

PAGE = 25  # rows

Look = Callable[..., Awaitable[Page[Any]]]


@dataclass(frozen=True, slots=True)
class Search:
    """What somebody looks for, beside a status; None does not narrow it."""

    event_id: str | None
    resource: str | None
    event_type: str | None


async def _search(
    event_id: Filter = None, resource: Filter = None, event_type: Filter = None
) -> Search:
    return Search(event_id, resource, event_type)


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
    **shown: Any,
) -> Response:
    """Show the page of rows behind the cursor `after`, whose list has this `letter`."""
    named = asdict(search)
    rows = await look(status=status, **named, after=cursors.decode(after), limit=PAGE)
    return page(
        request,
        template,
        rows=rows.items,
        chosen={"status": status, **named},
        statuses=list(statuses),
        after=after,
        next=cursors.encode(letter, rows.next),
        **shown,
    )
