"""How commands answer: text for a person, JSON for a program, and an exit status for both.

Stdout has the answer and nothing else, one JSON document with `--json`. Faults, questions, progress
and the log go to stderr. A fault is one line there in both cases: a program looks at the status.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from enum import IntEnum
from typing import Annotated, NoReturn

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON, for a program.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]


class Status(IntEnum):
    """What a command exits with."""

    FINE = 0
    FAILED = 1
    BAD_INPUT = 2
    DIFFERENCE = 3  # something is not as it should be, and nothing failed
    INTERRUPTED = 130  # by Ctrl-C


def answer(text: str, data: Mapping[str, object], *, as_json: bool) -> None:
    """Write `data` as JSON, or `text`, to stdout; end the command if nobody takes it."""
    try:
        print(json.dumps(data, ensure_ascii=False, indent=2) if as_json else text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left of it
        if not isinstance(error, BrokenPipeError):  # who reads it has read enough then
            complain(f"the answer could not be written: {error.strerror}")
        raise typer.Exit(Status.FAILED) from None


def complain(message: str) -> None:
    """Write one line to stderr."""
    print(message.replace("\n", " "), file=sys.stderr)


def fail(message: str, status: Status) -> NoReturn:
    """End the command: one line on stderr, and `status`."""
    complain(message)
    raise typer.Exit(status)


def confirm(question: str, *, yes: bool) -> None:
    """Ask a person on a terminal; end the command unless the answer is yes.

    Who cannot be asked has to say `--yes` at once.
    """
    if yes:
        return
    if not somebody_is_there():
        fail(f"{question} Nobody can be asked here: add --yes", Status.BAD_INPUT)
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:  # Ctrl-C, or the terminal went away
        fail(" nothing was done", Status.INTERRUPTED)
    if not agreed:
        fail("nothing was done", Status.FAILED)


def number_of(count: int, one: str, many: str | None = None) -> str:
    """Say how many: `1 event`, `2 events`."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def somebody_is_there() -> bool:
    """Whether a question reaches a person."""
    return sys.stdin.isatty()
