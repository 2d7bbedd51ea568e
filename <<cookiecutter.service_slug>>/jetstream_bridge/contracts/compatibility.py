"""Whether whoever reads by one JSON Schema can read everything that is written by another.

Each keyword of the reader's schema has a rule, which says whether the writer's schema keeps to it.
A keyword without a rule has to be the same in both. So a change that is not understood counts as
breaking, and one that counts as fine is fine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum

from jetstream_bridge.contracts import schema_limits as limits
from jetstream_bridge.contracts.schema_nodes import (
    NOTHING,
    Node,
    SchemaDocument,
    as_node,
    equal,
    text_of,
    types_of,
)


class Direction(Enum):
    """Who reads and who writes."""

    PUBLISHED = "published"  # readers have the released schema, this service writes by the new one
    HANDLED = "handled"  # peers write by the released schema, this service reads by the new one


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that breaks. `path` is `lines[].price`, and empty for the payload itself."""

    path: str
    text: str
    of_value: bool = False  # a constant that the reader does not know

    def below(self, part: str) -> Fault:
        dot = "." if self.path and not self.path.startswith(("[", "{")) else ""
        return replace(self, path=f"{part}{dot}{self.path}")

    def __str__(self) -> str:
        return f"{self.path or 'payload'}: {self.text}"


def breaking(old: Node, new: Node, direction: Direction) -> list[Fault]:
    """Return what breaks when the released schema `old` becomes `new`; nothing means that all is
    fine. Raises `ValueError` for what is no JSON Schema."""
    published = direction is Direction.PUBLISHED
    reader, writer = (old, new) if published else (new, old)
    return _Comparison(SchemaDocument(reader), SchemaDocument(writer), published).run()


Faults = list[Fault]
Rule = Callable[["_Comparison", Node, Node], Iterable[Fault]]

_OF_TYPE = {
    **dict.fromkeys(("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"), "number"),
    "multipleOf": "number",
    **dict.fromkeys(("minLength", "maxLength", "pattern", "format"), "string"),
    **dict.fromkeys(("contentEncoding", "contentMediaType"), "string"),
    **dict.fromkeys(("items", "prefixItems", "minItems", "maxItems", "uniqueItems"), "array"),
    **dict.fromkeys(("properties", "required", "additionalProperties"), "object"),
    **dict.fromkeys(("propertyNames", "minProperties", "maxProperties"), "object"),
    "patternProperties": "object",
}


class _Comparison:
    """Pairs that are being compared, or were without a fault, count as fine: so a schema that has
    itself as a part comes to an end. Where a pair turns out not to be, all is compared anew."""

    def __init__(self, reader: SchemaDocument, writer: SchemaDocument, published: bool) -> None:
        self._reader, self._writer = reader, writer
        self.published = published
        self._fine: set[tuple[str, str]] = set()
        self._broken: dict[tuple[str, str], Faults] = {}

    def run(self) -> Faults:
        while True:
            self._fine.clear()
            known = len(self._broken)
            faults = self.faults(self._reader.root, self._writer.root)
            if len(self._broken) == known:
                return list(dict.fromkeys(faults))

    def faults(self, reader: object, writer: object) -> Faults:
        """What breaks, with paths from here."""
        left, right = self._reader.plain(reader), self._writer.plain(writer)
        pair = text_of(left), text_of(right)
        if pair in self._broken:
            return self._broken[pair]
        if pair in self._fine:
            return []
        self._fine.add(pair)
        if found := self._compared(left, right):
            self._fine.discard(pair)
            self._broken[pair] = found
        return found

    def _compared(self, reader: Node, writer: Node) -> Faults:
        branches = [one for one in self._writer.branches(writer) if not _is_nothing(one)]
        kinds = self._new_kinds(reader, branches)
        found = [fault for one in branches for fault in self._of_branch(reader, one)]
        if not kinds:
            return list(dict.fromkeys(found))
        return [kinds, *(fault for fault in dict.fromkeys(found) if fault.path)]

    def _new_kinds(self, reader: Node, branches: Iterable[Node]) -> Fault | None:
        """What types there are that the reader does not know, said at once."""
        written = dict.fromkeys(kind for one in branches for kind in types_of(one) or ("any",))
        known = self._known_kinds(reader)
        if known is None or all(limits.is_kind(kind, known) for kind in written):
            return None
        return Fault("", self.changed("type", _kinds(known), _kinds(written)))

    def _known_kinds(self, reader: Node) -> tuple[str, ...] | None:
        """The types that the reader takes; None where it takes any."""
        found: dict[str, None] = {}
        for branch in self._reader.branches(reader):
            kinds = types_of(branch)
            if kinds is None:
                return () if _is_nothing(branch) and not found else None
            found.update(dict.fromkeys(kinds))
        return tuple(found)

    def _of_branch(self, reader: Node, writer: Node) -> Faults:
        known, written = self._known_kinds(reader), types_of(writer)
        if known is not None and not all(limits.is_kind(k, known) for k in written or ("any",)):
            return [Fault("", self.changed("type", _kinds(known), "any"))]
        return [
            fault
            for keyword in reader
            if _concerns(keyword, written)
            for fault in self._of_keyword(keyword, reader, writer)
        ]

    def _of_keyword(self, keyword: str, reader: Node, writer: Node) -> Iterable[Fault]:
        rule = RULES.get(keyword)
        if rule is not None:
            return rule(self, reader, writer)
        if limit := limits.LIMITS.get(keyword):
            if limit(reader, writer):
                return []
        elif self._same(reader[keyword], writer.get(keyword)):
            return []
        shown = (reader[keyword], writer.get(keyword, writer.get("const", "not limited")))
        return [Fault("", self.changed(keyword, *map(_shown, shown)))]

    def _same(self, reader: object, writer: object) -> bool:
        """Whether what has no rule says the same in both, and so does what it refers to."""
        if not equal(reader, writer):
            return False
        return "$ref" not in text_of(reader) or equal(self._reader.parts, self._writer.parts)

    def changed(self, what: str, reader: str, writer: str) -> str:
        before, now = (reader, writer) if self.published else (writer, reader)
        return f"{what} was {before}, and is {now} now"

    # --- rules that need more than the two values

    def union(self, reader: Node, writer: Node) -> Iterable[Fault]:
        """One of the reader's branches takes it, or else the nearest one says why not."""
        tried = []
        for branch in reader.get("anyOf") or reader["oneOf"]:
            found = self.faults(branch, writer)
            if not found:
                return []
            tried.append(found)
        nearest = min(tried, key=_distance)
        # Another tag is another thing: what its fields lack is no news beside that.
        return [fault for fault in nearest if fault.of_value] or nearest

    def properties(self, reader: Node, writer: Node) -> Iterable[Fault]:
        has, needed = writer.get("properties", {}), reader.get("required", ())
        others = _additional(writer, open_means_any="properties" not in writer)
        for name, schema in reader["properties"].items():
            if name in has:
                yield from _below(name, self.faults(schema, has[name]))
            elif name in needed:
                continue  # said by the rule for that
            elif others is not None:
                yield from _below(name, self.faults(schema, others))
            elif self.published:
                yield Fault(name, "is not published any more")

    def required(self, reader: Node, writer: Node) -> Iterable[Fault]:
        for name in reader["required"]:
            if name in writer.get("required", ()):
                continue
            if name in writer.get("properties", {}):
                yield Fault(name, "may be missing now" if self.published else "is required now")
            elif self.published:
                yield Fault(name, "is not published any more")
            else:
                yield Fault(name, "is new and required, and peers do not send it yet")

    def additional(self, reader: Node, writer: Node) -> Iterable[Fault]:
        allowed = as_node(reader["additionalProperties"])
        known = reader.get("properties", {})
        has = writer.get("properties", {})
        more = [name for name in has if name not in known]
        others = _additional(
            writer, open_means_any=not self.published or "properties" not in writer
        )
        if not _is_nothing(allowed):
            for name in more:
                yield from _below(name, self.faults(allowed, has[name]))
            if others is not None:
                yield from _below("{}", self.faults(allowed, others))
        elif not self.published:  # readers of what this service publishes ignore what they lack
            yield from (Fault(name, "is refused now (extra='forbid')") for name in more)
            if others is not None:
                yield Fault("", "further fields are refused now (extra='forbid')")

    def property_names(self, reader: Node, writer: Node) -> Iterable[Fault]:
        for name in writer.get("properties", {}):
            yield from _below(name, self.faults(reader["propertyNames"], {"const": name}))
        if _additional(writer, open_means_any=True) is not None:
            names = {"type": "string", **as_node(writer.get("propertyNames", {}))}
            yield from _below("{}", self.faults(reader["propertyNames"], names))

    def items(self, reader: Node, writer: Node) -> Iterable[Fault]:
        first, has = len(reader.get("prefixItems", ())), writer.get("prefixItems", [])
        for schema in has[first:]:
            yield from _below("[]", self.faults(reader["items"], schema))
        if (most := writer.get("maxItems")) is None or most > max(first, len(has)):
            yield from _below("[]", self.faults(reader["items"], writer.get("items", {})))

    def prefix_items(self, reader: Node, writer: Node) -> Iterable[Fault]:
        has, most = writer.get("prefixItems", []), writer.get("maxItems")
        for place, schema in enumerate(reader["prefixItems"]):
            if most is None or place < most:
                written = has[place] if place < len(has) else writer.get("items", {})
                yield from _below(f"[{place}]", self.faults(schema, written))

    def unique_items(self, reader: Node, writer: Node) -> Iterable[Fault]:
        """Pydantic takes a list with repetitions for a set, so only our readers may mind."""
        if self.published and reader["uniqueItems"] and not writer.get("uniqueItems"):
            yield Fault("", "may have the same item twice now")

    def values(self, reader: Node, writer: Node) -> Iterable[Fault]:
        known = reader["enum"] if "enum" in reader else [reader["const"]]
        if "const" in writer:
            if not any(equal(writer["const"], one) for one in known):
                verb = "is new" if self.published else "is not accepted any more"
                yield Fault("", f"the value {_shown(writer['const'])} {verb}", of_value=True)
        elif types_of(writer) != ("boolean",) or not {True, False} <= set(map(_hashable, known)):
            yield Fault(
                "", self.changed("value", f"one of {_shown(known)}", f"any {writer.get('type')}")
            )

    def types(self, _reader: Node, _writer: Node) -> Iterable[Fault]:
        return ()  # looked at before any other keyword


RULES: dict[str, Rule] = {
    "anyOf": _Comparison.union,
    "oneOf": _Comparison.union,
    "type": _Comparison.types,
    "enum": _Comparison.values,
    "const": _Comparison.values,
    "properties": _Comparison.properties,
    "required": _Comparison.required,
    "additionalProperties": _Comparison.additional,
    "propertyNames": _Comparison.property_names,
    "items": _Comparison.items,
    "prefixItems": _Comparison.prefix_items,
    "uniqueItems": _Comparison.unique_items,
}


def _concerns(keyword: str, written: tuple[str, ...] | None) -> bool:
    """Whether a keyword says anything about values of these types."""
    kind = _OF_TYPE.get(keyword)
    if kind is None or written is None:
        return True
    return any(limits.is_kind(one, (kind,)) for one in written)


def _additional(writer: Node, *, open_means_any: bool) -> Node | None:
    """What is written beside the properties: None for nothing, or for what nobody declared."""
    given = as_node(writer.get("additionalProperties", {}))
    if _is_nothing(given):
        return None
    return given if given or open_means_any else None


def _below(part: str, faults: Faults) -> Iterable[Fault]:
    return (fault.below(part) for fault in faults)


def _distance(faults: Faults) -> tuple[int, int]:
    """How far from fitting: a wrong type or another tag is farther than a wrong field."""
    kinds = sum(not fault.path or fault.of_value for fault in faults)
    return kinds, len(faults)


def _kinds(kinds: Iterable[str]) -> str:
    return " or ".join(kinds) or "nothing"


def _is_nothing(node: Node) -> bool:
    return dict(node) == NOTHING


def _hashable(value: object) -> object:
    return value if isinstance(value, bool) else text_of(value)


def _shown(value: object) -> str:
    text = value if value == "not limited" else text_of(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
