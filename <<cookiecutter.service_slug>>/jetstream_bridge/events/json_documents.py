"""JSON that a peer wrote: read within bounds, and every text in it valid Unicode.

Whatever the bytes, there is a value or a `MalformedJSONError`. What comes out can be stored,
logged, copied and written again: it is nested `DEEPEST` levels at most, has no `NaN`, and half of
a surrogate pair (`"\\ud83d"`, an emoji that a peer cut in two) is read as U+FFFD, as Go does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import from_json

from jetstream_bridge.core.errors import MalformedJSONError

DEEPEST = 200  # levels of arrays and objects; the parser's own limit
REPLACED = "\ufffd"  # in the place of what was no character

# Escapes from left to right, so that a backslash that is escaped itself escapes nothing.
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a whole pair
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"  # half of one
    rb"|\\.",
    re.DOTALL,
)
_HALF = 6  # bytes


def read_json(body: bytes) -> tuple[Any, bytes]:
    """Return the value of a JSON text, and the text as it was read.

    The text is `body` itself, but for halves of surrogate pairs.
    """
    try:
        return from_json(body, allow_inf_nan=False), body
    except ValueError as error:
        repaired = _ESCAPE.sub(_whole, body)
        if repaired == body:
            raise MalformedJSONError(f"the body is not JSON: {error}") from error
    try:
        return from_json(repaired, allow_inf_nan=False), repaired
    except ValueError as error:
        raise MalformedJSONError(f"the body is not JSON: {error}") from error


def _whole(escape: re.Match[bytes]) -> bytes:
    text = escape.group()
    return rb"\ufffd" if len(text) == _HALF else text


def is_deeper(value: object, levels: int) -> bool:
    """Whether a document is nested more than `levels` deep; it may be deeper than Python goes."""
    here: list[object] = [value]
    for _ in range(levels + 1):
        here = [inner for outer in here for inner in _inside(outer)]
        if not here:
            return False
    return True


def _inside(value: object) -> Iterable[object]:
    """What a container holds. A model or the like counts as flat: only JSON nests without end."""
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()
