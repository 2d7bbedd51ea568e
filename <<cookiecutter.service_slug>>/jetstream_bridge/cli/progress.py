"""How far a long command is: a line that renews itself on a terminal, nothing in a pipe.

It goes to stderr, so that the answer on stdout stays whole.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

_REDRAW = 0.1  # seconds between two drawings
# The cursor stays at the line's beginning, so that a line of the log takes its place.
_END = "\x1b[K\r"


class Progress:
    """Counts what is done; `str()` says it, also after the command was interrupted."""

    def __init__(self, doing: str, done: str) -> None:
        """`doing` stands before the count while it goes on, `done` before it afterwards."""
        self.count = 0
        self.total: int | None = None
        self._doing = doing
        self._done = done
        self._drawn_at = 0.0
        self._shown = sys.stderr.isatty()

    def __enter__(self) -> Self:
        self._draw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shown:
            print(end=_END, file=sys.stderr, flush=True)

    def advance(self, number: int = 1) -> None:
        self.count += number
        if time.monotonic() - self._drawn_at >= _REDRAW:
            self._draw()

    def __str__(self) -> str:
        return f"{self._done} {self._number}"

    @property
    def _number(self) -> str:
        return f"{self.count}" if self.total is None else f"{self.count} of {self.total}"

    def _draw(self) -> None:
        self._drawn_at = time.monotonic()
        if self._shown:
            print(end=f"{self._doing} {self._number}{_END}", file=sys.stderr, flush=True)
