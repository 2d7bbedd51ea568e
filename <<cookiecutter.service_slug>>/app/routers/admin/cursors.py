"""Cursors: opaque to clients, so that what stands in them may change."""

from __future__ import annotations

import base64
import binascii

from fastapi.exceptions import RequestValidationError


def encode(kind: str, key: int | None) -> str | None:
    """Return the cursor behind the item with `key`; `kind` names the list."""
    if key is None:
        return None
    return base64.urlsafe_b64encode(f"{kind}:{key}".encode()).decode().rstrip("=")


def decode(kind: str, cursor: str | None) -> int | None:
    """Return the key in a cursor of the list `kind`; one of another list is refused with 422."""
    if cursor is None:
        return None
    try:
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        name, _, key = (
            base64.b64decode(padded, altchars=b"-_", validate=True).decode().partition(":")
        )
    except (binascii.Error, UnicodeError):
        name, key = "", ""
    if name != kind or not (key.isascii() and key.isdigit() and len(key) < 19):
        fault = {
            "type": "value_error",
            "loc": ("query", "after"),
            "msg": "This is not the `next` of a page of this list",
        }
        raise RequestValidationError([fault])
    return int(key)
