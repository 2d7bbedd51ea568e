"""Cursors: opaque to clients, so that what stands in them may change.

Each list has a letter of its own, so that the cursor of another one is refused with 422.
"""

from __future__ import annotations

from typing import Any

from fastapi import Query


def after(letter: str) -> Any:
    """Describe the parameter `after` of the list whose cursors begin with `letter`."""
    return Query(
        # 15 hexadecimal digits fit into a key, which has 63 bits.
        pattern=f"^{letter}[0-9a-f]{{1,15}}$",
        description="The `next` of the page before; opaque.",
    )


def encode(letter: str, key: int | None) -> str | None:
    """Return the cursor behind the item with `key`."""
    return None if key is None else f"{letter}{key:x}"


def decode(cursor: str | None) -> int | None:
    """Return the key in a cursor that has its parameter's form."""
    return None if cursor is None else int(cursor[1:], 16)
