"""JSON Schema, taken apart for a comparison: references, unions, types.

A part that is taken apart may be wider than it was and never narrower: then a comparison may say
that something breaks which does not, and never the other way round.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

Node = Mapping[str, Any]

ANNOTATIONS = frozenset(
    {
        *("$schema", "$id", "$defs", "definitions", "$comment", "$anchor", "title", "description"),
        *("default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator"),
    }
)
# These say how a text is shown, and keep none out.
_FREE_FORMATS = frozenset({"password", "path", "binary"})
NOTHING: Node = {"not": {}}
_UNIONS = ("anyOf", "oneOf")
_MOST_REFERENCES = 100  # one after another, without a schema between them


class SchemaDocument:
    """One schema with its `$defs`."""

    def __init__(self, schema: Node) -> None:
        self.root = schema

    @property
    def parts(self) -> object:
        """What its references lead to."""
        return self.root.get("$defs")

    def plain(self, node: object) -> Node:
        """Return the node without references, annotations and `allOf`."""
        found = self._followed(node)
        parts = [self.plain(part) for part in found.get("allOf", ())]
        own = {name: value for name, value in found.items() if _asserts(name, value)}
        return merged(own, *parts)

    def _followed(self, node: object) -> Node:
        for _ in range(_MOST_REFERENCES):
            found = as_node(node)
            if "$ref" not in found:
                return found
            beside = {k: v for k, v in found.items() if k == "allOf" or _asserts(k, v)}
            target = self._target(found["$ref"])
            node = merged(beside, as_node(target)) if beside else target
        raise ValueError(f"the reference {found['$ref']!r} leads to itself; write a schema there")

    def _target(self, reference: str) -> object:
        found: Any = self.root
        for part in reference.removeprefix("#").split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or name not in found:
                raise ValueError(f"the reference {reference!r} leads nowhere; write its $defs")
            found = found[name]
        return found

    def branches(self, node: Node) -> Iterator[Node]:
        """The plain nodes that together are `node`: none of them has a union or several types."""
        for union in _UNIONS:
            if union in node:
                rest = {name: value for name, value in node.items() if name != union}
                for part in node[union]:
                    yield from self.branches(merged(self.plain(part), rest))
                return
        if isinstance(node.get("type"), list):
            for one in node["type"]:
                yield from self.branches({**node, "type": one})
        elif "enum" in node:
            rest = {name: value for name, value in node.items() if name != "enum"}
            yield from ({**rest, "const": value} for value in node["enum"])
        else:
            yield node


def _asserts(name: str, value: object) -> bool:
    if name == "format":
        return value not in _FREE_FORMATS
    return name not in ANNOTATIONS and name not in ("allOf", "$ref") and not name.startswith("x-")


def as_node(schema: object) -> Node:
    """`true` and `false` are schemas too."""
    if isinstance(schema, bool):
        return {} if schema else NOTHING
    if not isinstance(schema, Mapping):
        raise ValueError(f"{schema!r:.80} is no JSON Schema; write an object, true or false")
    return schema


def merged(*parts: Node) -> dict[str, Any]:
    """What holds where all of the parts hold.

    Where two say something else of one keyword, the first one counts, and the other one stays
    in `allOf`: a reader's comparison has no rule for that, so it has to be the same in both.
    """
    result: dict[str, Any] = {}
    besides: list[object] = []
    for part in parts:
        for name, value in part.items():
            if name == "allOf":
                besides += value
            elif not equal(result.setdefault(name, value), value):
                besides.append({name: value})
    return {**result, "allOf": besides} if besides else result


def types_of(node: Node) -> tuple[str, ...] | None:
    """The JSON types that a node without unions can be of; None where it can be of any."""
    if "const" in node:
        return (_type_of(node["const"]),)
    if "enum" in node:
        return tuple(dict.fromkeys(_type_of(value) for value in node["enum"]))
    kind = node.get("type")
    return None if kind is None else (kind,) if isinstance(kind, str) else tuple(kind)


def _type_of(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    names = {int: "integer", float: "number", str: "string", list: "array"}
    return next((name for kind, name in names.items() if isinstance(value, kind)), "object")


def equal(left: object, right: object) -> bool:
    """As JSON: 1 and true are two values, 1 and 1.0 are one."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return left == right


def text_of(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
