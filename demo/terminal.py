"""What a person reads: plain lines of at most 100 columns, with colour only on a terminal."""

from __future__ import annotations

import os
import sys
from enum import IntEnum

WIDTH = 100  # columns
_INDENT = "  "


class Colour(IntEnum):
    BOLD = 1
    DIM = 2
    RED = 31
    GREEN = 32


class Terminal:
    """Prints lines as soon as they are known."""

    def __init__(self) -> None:
        self._colourful = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def title(self, text: str, aside: str = "") -> None:
        """Begin a part; `aside` says more about it."""
        more = f" {self._in(Colour.DIM, f'({aside})')}" if aside else ""
        print(f"\n{self._in(Colour.BOLD, text)}{more}", flush=True)

    def say(self, text: str, colour: Colour | None = None) -> None:
        print(f"{_INDENT}{self._in(colour, text) if colour else text}", flush=True)

    def _in(self, colour: Colour, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colourful and text else text


def shorten(line: str) -> str:
    """Cut `line` to what fits beside the indent."""
    room = WIDTH - len(_INDENT)
    return line if len(line) <= room else f"{line[: room - 3]}..."
