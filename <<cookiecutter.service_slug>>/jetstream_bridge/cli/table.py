"""Tables of at most 100 columns, made of values that may hold anything.

What others wrote (ids, errors, payloads) must not move a person's cursor or colour the terminal:
every character that is not printable is shown as its escape. Numbers stand on the right. What is
too long is cut, in the columns that may be; `--json` has it whole.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from jetstream_bridge.core.error_report import shortened

WIDTH = 100  # columns
_GAP = 2  # columns between two cells
_NARROWEST = 6  # columns that a cut cell keeps
_REMARK = "    "  # before what stands below a row


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `shrinks`: its cells may be cut; `keeps_end`: in their middle."""

    title: str
    numeric: bool = False
    shrinks: bool = False
    keeps_end: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """The cells, and what is said about them on a line of its own."""

    cells: tuple[str, ...]
    remark: str | None = None


def table(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Lay out `rows` under their titles."""
    cells = [[printable(cell) for cell in row.cells] for row in rows]
    widths = _widths(columns, cells)
    lines = [_line(columns, widths, [column.title for column in columns])]
    for row, shown in zip(rows, cells, strict=True):
        lines.append(_line(columns, widths, shown))
        if row.remark:
            room = 2 * (WIDTH - len(_REMARK))
            remark = cut(shortened(printable(row.remark), room), room)
            lines += wrapped(remark, first=_REMARK, rest=_REMARK)
    return "\n".join(lines)


def wrapped(text: str, *, first: str, rest: str) -> list[str]:
    """Break `text` into lines that fit, beginning with `first` and then with `rest`."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    ) or [first.rstrip()]


def clauses(text: str, *, first: str, rest: str) -> list[str]:
    """Do the same; where one line is too short, begin another one after each semicolon.

    There stands the remedy, often a command that somebody copies.
    """
    if width_of(first) + width_of(text) <= WIDTH:
        return [(first + text).rstrip()]
    lines: list[str] = []
    parts = text.split("; ")
    for part in [*(f"{part};" for part in parts[:-1]), parts[-1]]:
        lines += wrapped(part, first=rest if lines else first, rest=rest)
    return lines


def printable(text: str) -> str:
    """Show what a terminal would obey, or could not show, as its escape."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def cut(text: str, width: int, *, keeps_end: bool = False) -> str:
    """Return `text` in at most `width` columns; `…` stands for what is left out."""
    if width_of(text) <= width:
        return text
    if not keeps_end:
        return _beginning(text, width - 1) + "…"
    tail = _beginning(text[::-1], (width - 1) // 2)[::-1]
    return f"{_beginning(text, width - 1 - width_of(tail))}…{tail}"


def width_of(text: str) -> int:
    """The columns that a terminal needs for `text`."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _beginning(text: str, width: int) -> str:
    taken = 0
    for index, character in enumerate(text):
        taken += _columns(character)
        if taken > width:
            return text[:index]
    return text


def _widths(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> list[int]:
    """As wide as the widest cell; too much is taken from the widest column that may be cut."""
    widths = [
        max(map(width_of, [column.title, *(row[index] for row in cells)]))
        for index, column in enumerate(columns)
    ]
    shrinking = [index for index, column in enumerate(columns) if column.shrinks]
    while sum(widths) + _GAP * (len(columns) - 1) > WIDTH:
        widest = max(shrinking, key=lambda index: widths[index], default=None)
        if widest is None or widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    return widths


def _line(columns: Sequence[Column], widths: Sequence[int], cells: Sequence[str]) -> str:
    shown = []
    for column, width, cell in zip(columns, widths, cells, strict=True):
        text = cut(cell, width, keeps_end=column.keeps_end)
        padding = " " * (width - width_of(text))
        shown.append(padding + text if column.numeric else text + padding)
    return (" " * _GAP).join(shown).rstrip()
