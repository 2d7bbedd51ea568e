"""What the commands share that show rows and letters: options, pages, and an item whole.

JSON answers are the models of the operators' API, so that both name everything alike, and a
cursor of one works for the other.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Protocol, TypeVar

import typer
from pydantic import BaseModel, TypeAdapter, ValidationError

from jetstream_bridge.cli.output import Status, answer, fail
from jetstream_bridge.cli.service import Service, run
from jetstream_bridge.cli.table import Column, Row, printable, table, wrapped

Limit = Annotated[int, typer.Option("--limit", min=1, max=500, help="The most rows to show.")]
After = Annotated[
    str | None,
    typer.Option("--after", metavar="CURSOR", help="Go on where the page before ended."),
]
Resource = Annotated[
    str | None,
    typer.Option("--resource", metavar="TYPE:ID", help="Events of one resource, like order:17."),
]
EventIdOption = Annotated[
    str | None, typer.Option("--event-id", metavar="ID", help="The event with this id.")
]

EventTypeOption = Annotated[
    str | None, typer.Option("--event-type", metavar="TYPE", help="Of this event type only.")
]

_KEY_WIDTH = 15  # columns


def checked_resource(value: str | None) -> str | None:
    """Return a resource as it was given, or end the command: anything else matches nothing."""
    if value is not None and ":" not in value:
        fail(
            f"--resource {value!r} is no resource: write its type and its id, like order:17",
            Status.BAD_INPUT,
        )
    return value


def checked_cursor(kind: Any, value: str | None) -> str | None:
    """Return a cursor of the list whose parameter is `kind`, or end the command."""
    try:
        cursor: str | None = TypeAdapter(kind).validate_python(value)
    except ValidationError:
        fail(f"--after {value!r} is no cursor of this list: give its `next`", Status.BAD_INPUT)
    return cursor


class Page(Protocol):
    """A page of the API's."""

    @property
    def items(self) -> Sequence[Any]: ...

    @property
    def next(self) -> str | None: ...

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


def show_page(
    ask: Callable[[Service], Awaitable[Page]],
    columns: Sequence[Column],
    row: Callable[[Any], Row],
    *,
    empty: str,
    as_json: bool,
    below: Callable[[Any], str | None] = lambda _: None,
) -> None:
    """Show a page as a table, and how to go on; `empty` is said where there is nothing, `below`
    under the rows."""

    async def work(service: Service) -> Status:
        page = await ask(service)
        text = empty if not page.items else table(columns, [row(item) for item in page.items])
        if page.items and (said := below(page)) is not None:
            text += f"\n{said}"
        if page.next is not None and page.items:
            text += f"\nmore: --after {page.next}"
        elif page.next is not None:
            text = f"none among those looked at so far; go on with --after {page.next}"
        answer(text, page.model_dump(mode="json"), as_json=as_json)
        return Status.FINE

    run(work)


View = TypeVar("View", bound=BaseModel)


def act(
    action: Callable[[Service], Awaitable[View]], said: Callable[[View], str], *, as_json: bool
) -> None:
    """Do one thing, and answer with what the API would, or with what is `said` of it."""

    async def work(service: Service) -> Status:
        view = await action(service)
        answer(said(view), view.model_dump(mode="json"), as_json=as_json)
        return Status.FINE

    run(work)


def whole(view: BaseModel) -> str:
    """Show one item: short values as lines, and documents below them."""
    fields = view.model_dump(mode="json")
    short = {name: value for name, value in fields.items() if not isinstance(value, dict | list)}
    lines = []
    for name, value in short.items():
        text = "-" if value is None or value == "" else printable(str(value))
        key = f"{name:{_KEY_WIDTH}} "
        lines += wrapped(text, first=key, rest=" " * len(key))
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            shown = json.dumps(value, ensure_ascii=False, indent=2)
            lines += ["", name, *(f"  {printable(line)}" for line in shown.splitlines())]
    for one in fields.get("tries", []):
        lines += wrapped(printable(f"{one['at']}  {one['error']}"), first="failed ", rest="       ")
    return "\n".join(lines)
