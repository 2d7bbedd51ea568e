"""Cursors: opaque to clients, so that what stands in them may change.

Each list has a letter of its own, so that the cursor of another one is refused with 422.
"""

from __future__ import annotations

from typing import Any

from fastapi import Query

from jetstream_bridge.operations.dead_letter_queue import LetterCursor


def after(letter: str) -> Any:
    """Describe the parameter `after` of the list whose cursors begin with `letter`."""
    return Query(
        # 15 hexadecimal digits fit into a key, which has 63 bits.
        pattern=f"^{letter}[0-9a-f]{{1,15}}$",
        description="The `next` of the page before; opaque.",
    )


OLDEST_FIRST, NEWEST_FIRST = "d", "n"  # letters of the dead letters' two lists


def after_letter() -> Any:
    """Describe the same of dead letters: their cursors also tell which stream is meant."""
    return Query(
        pattern=f"^[{OLDEST_FIRST}{NEWEST_FIRST}][0-9a-f]{{1,15}}-[0-9a-f]{{1,15}}$",
        description="The `next` of the page before, in the same `order`; opaque.",
    )


def encode_letter(mark: LetterCursor | None) -> str | None:
    if mark is None:
        return None
    letter = NEWEST_FIRST if mark.newest_first else OLDEST_FIRST
    return f"{letter}{mark.sequence:x}-{mark.made_us:x}"


def decode_letter(cursor: str | None) -> LetterCursor | None:
    """Return what a cursor says that has its parameter's form."""
    if cursor is None:
        return None
    sequence, _, made = cursor[1:].partition("-")
    return LetterCursor(int(sequence, 16), int(made, 16), cursor[0] == NEWEST_FIRST)


def encode(letter: str, key: int | None) -> str | None:
    """Return the cursor behind the item with `key`."""
    return None if key is None else f"{letter}{key:x}"


def decode(cursor: str | None) -> int | None:
    """Return the key in a cursor that has its parameter's form."""
    return None if cursor is None else int(cursor[1:], 16)
