"""What the commands share that list rows and letters: options, and how an item looks whole.

JSON answers are the models of the operators' API, so that both name everything alike, and a
cursor of one works for the other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from app.commands.output import Status, fail
from app.commands.table import printable, wrapped

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

_KEY_WIDTH = 15  # columns


def checked_cursor(kind: Any, value: str | None) -> str | None:
    """Return a cursor of the list whose parameter is `kind`, or end the command."""
    try:
        cursor: str | None = TypeAdapter(kind).validate_python(value)
    except ValidationError:
        fail(f"--after {value!r} is no cursor of this list: give its `next`", Status.BAD_INPUT)
    return cursor


def page_text(text: str, *, empty: str, shown: int, cursor: str | None) -> str:
    """Add to a table how to go on; say so where there is nothing in it."""
    if cursor is None:
        return text if shown else empty
    if shown:
        return f"{text}\nmore: --after {cursor}"
    return f"none among those looked at so far; go on with --after {cursor}"


def whole(fields: Mapping[str, object]) -> str:
    """Show one item: short values as lines, and documents below them."""
    short = {name: value for name, value in fields.items() if not isinstance(value, dict)}
    lines = []
    for name, value in short.items():
        text = "-" if value is None or value == "" else printable(str(value))
        key = f"{name:{_KEY_WIDTH}} "
        lines += wrapped(text, first=key, rest=" " * len(key))
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            shown = json.dumps(value, ensure_ascii=False, indent=2)
            lines += ["", name, *(f"  {printable(line)}" for line in shown.splitlines())]
    return "\n".join(lines)
