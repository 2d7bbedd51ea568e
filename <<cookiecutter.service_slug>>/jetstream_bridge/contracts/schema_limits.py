"""Limits of numbers, texts and lengths: whether what is written keeps within the reader's."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from jetstream_bridge.contracts.schema_nodes import Node

Limit = Callable[[Node, Node], bool]


def is_kind(kind: str, known: tuple[str, ...]) -> bool:
    """Whether a value of JSON type `kind` is of one of the known types: an integer is a number."""
    return kind in known or (kind == "integer" and "number" in known)


def _lowest(node: Node, *, whole: bool) -> tuple[Decimal, bool] | None:
    """The least value, and whether it is itself left out; the integer where all are integers."""
    bounds = [
        (_decimal(node[keyword]), left_out)
        for keyword, left_out in (("minimum", False), ("exclusiveMinimum", True))
        if keyword in node
    ]
    if not bounds:
        return None
    value, left_out = max(bounds)
    if not whole:
        return value, left_out
    least = math.floor(value) + 1 if left_out else math.ceil(value)
    return Decimal(least), False


def _mirrored(node: Node) -> dict[str, Any]:
    """Upper limits as lower ones of the negative numbers, so that there is one comparison."""
    names = {"maximum": "minimum", "exclusiveMaximum": "exclusiveMinimum", "const": "const"}
    return {to: -_decimal(node[name]) for name, to in names.items() if name in node}


def _decimal(value: object) -> Decimal:
    return value if isinstance(value, Decimal) else Decimal(str(value))


def _above(reader: Node, writer: Node) -> bool:
    whole = writer.get("type") == "integer"
    return _starts_within(reader, writer, whole=whole)


def _starts_within(reader: Node, writer: Node, *, whole: bool) -> bool:
    limit = _lowest(reader, whole=whole)
    if limit is None:
        return True
    if "const" in writer:
        value = _decimal(writer["const"])
        return value > limit[0] or (value == limit[0] and not limit[1])
    written = _lowest(writer, whole=whole)
    return written is not None and written >= limit


def _below(reader: Node, writer: Node) -> bool:
    whole = writer.get("type") == "integer"
    return _starts_within(_mirrored(reader), _mirrored(writer), whole=whole)


def _multiple(reader: Node, writer: Node) -> bool:
    step = _decimal(reader["multipleOf"])
    integral = 1 if writer.get("type") == "integer" else None
    written = writer.get("const", writer.get("multipleOf", integral))
    return written is not None and _decimal(written) % step == 0


def _at_least(keyword: str) -> Limit:
    def keeps(reader: Node, writer: Node) -> bool:
        size = _size(writer)
        least = size if size is not None else writer.get(keyword, 0)
        if keyword == "minProperties":
            least = max(least, len(writer.get("required", ())))
        return bool(least >= reader[keyword])

    return keeps


def _at_most(keyword: str) -> Limit:
    def keeps(reader: Node, writer: Node) -> bool:
        size = _size(writer)
        most = size if size is not None else writer.get(keyword)
        return most is not None and bool(most <= reader[keyword])

    return keeps


def _size(writer: Node) -> int | None:
    value = writer.get("const")
    return len(value) if isinstance(value, str | list | dict) else None


def _pattern(reader: Node, writer: Node) -> bool:
    if reader["pattern"] == writer.get("pattern"):
        return True
    value = writer.get("const")
    if not isinstance(value, str):
        return False
    try:
        return re.search(reader["pattern"], value) is not None
    except re.error:  # Pydantic's engine reads more than Python's
        return False


LIMITS: dict[str, Limit] = {
    "minimum": _above,
    "exclusiveMinimum": _above,
    "maximum": _below,
    "exclusiveMaximum": _below,
    "multipleOf": _multiple,
    "minLength": _at_least("minLength"),
    "maxLength": _at_most("maxLength"),
    "minItems": _at_least("minItems"),
    "maxItems": _at_most("maxItems"),
    "minProperties": _at_least("minProperties"),
    "maxProperties": _at_most("maxProperties"),
    "pattern": _pattern,
}
