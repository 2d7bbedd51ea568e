"""How commands answer: text for a person, JSON for a program, and an exit status for both."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from enum import IntEnum
from typing import Annotated, NoReturn

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON, for a program.")]


class Status(IntEnum):
    """What a command exits with."""

    FINE = 0
    FAILED = 1
    BAD_INPUT = 2
    DIFFERENCE = 3  # something is not as it should be, and nothing failed


def answer(text: str, data: Mapping[str, object], *, as_json: bool) -> None:
    """Write `data` as JSON, or `text`, to stdout."""
    print(json.dumps(data, ensure_ascii=False, indent=2) if as_json else text)


def fail(message: str, status: Status) -> NoReturn:
    """End the command: one line on stderr, and `status`."""
    print(message.replace("\n", " "), file=sys.stderr)
    raise typer.Exit(status)
