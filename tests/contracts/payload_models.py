"""Random payload models, each with payloads that it takes, and changes of them."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Literal
from uuid import UUID

from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, create_model

Json = Any
_WORDS = st.text(alphabet="abc", min_size=0, max_size=4)
_NUMBERS = st.floats(-100, 100, allow_nan=False).map(lambda value: round(value, 2))


@dataclass(frozen=True)
class Kind:
    """A type of a field, and the JSON values that a peer sends for it."""

    type: Any
    values: st.SearchStrategy[Json]


@dataclass(frozen=True)
class Payload:
    """A model: its fields, which of them may be left out, and whether more are forbidden."""

    fields: dict[str, Kind]
    optional: frozenset[str] = frozenset()
    closed: bool = False

    @cached_property
    def model(self) -> type[BaseModel]:
        options = ConfigDict(extra="forbid") if self.closed else ConfigDict()
        declared: dict[str, Any] = {
            name: (kind.type | None, None) if name in self.optional else (kind.type, ...)
            for name, kind in self.fields.items()
        }
        return create_model("Payload", __config__=options, **declared)

    @cached_property
    def payloads(self) -> st.SearchStrategy[dict[str, Json]]:
        needed = {n: kind.values for n, kind in self.fields.items() if n not in self.optional}
        others = {n: st.none() | self.fields[n].values for n in self.optional}
        return st.fixed_dictionaries(needed, optional=others)


def _limited(kind: type, low: Any, high: Any) -> Kind:
    numbers = st.integers(low, high) if kind is int else st.floats(low, high).map(_within(low))
    return Kind(Annotated[kind, Field(ge=low, le=high)], numbers)


def _within(low: float) -> Callable[[float], float]:
    return lambda value: max(low, round(value, 2))


_SIMPLE = st.sampled_from(
    [
        Kind(int, st.integers(-1000, 1000)),
        Kind(float, _NUMBERS | st.integers(-10, 10)),
        Kind(str, _WORDS),
        Kind(bool, st.booleans()),
        Kind(Any, st.none() | st.integers() | _WORDS),
        _limited(int, 0, 9),
        _limited(int, 1, 5),
        _limited(float, 0, 9),
        Kind(Annotated[int, Field(gt=0)], st.integers(1, 99)),
        Kind(Annotated[float, Field(gt=0)], st.floats(0.5, 9)),
        Kind(Annotated[int, Field(multiple_of=4)], st.integers(-9, 9).map(lambda n: 4 * n)),
        Kind(Annotated[int, Field(multiple_of=2)], st.integers(-9, 9).map(lambda n: 2 * n)),
        Kind(Annotated[str, Field(min_length=1)], st.text("abc", min_size=1, max_size=4)),
        Kind(Annotated[str, Field(max_length=2)], st.text("abc", max_size=2)),
        Kind(Annotated[str, Field(pattern="^a")], _WORDS.map(lambda word: f"a{word}")),
        Kind(Literal["a"], st.just("a")),
        Kind(Literal["a", "b"], st.sampled_from(["a", "b"])),
        Kind(Literal["a", "b", 1], st.sampled_from(["a", "b", 1])),
        Kind(UUID, st.uuids().map(str)),
        Kind(datetime.date, st.dates().map(str)),
        Kind(Decimal, st.integers(0, 9).map(str) | st.integers(0, 9)),
    ]
)


def _wider(inner: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
    def listed(kind: Kind) -> st.SearchStrategy[Kind]:
        items = st.lists(kind.values, max_size=3)
        longer = st.lists(kind.values, min_size=1, max_size=2)
        return st.sampled_from(
            [
                Kind(list[kind.type], items),  # type: ignore[name-defined]
                Kind(Annotated[list[kind.type], Field(min_length=1, max_length=2)], longer),  # type: ignore[name-defined]
                Kind(dict[str, kind.type], st.dictionaries(_WORDS, kind.values, max_size=2)),  # type: ignore[name-defined]
                Kind(kind.type | None, st.none() | kind.values),
                Kind(tuple[kind.type, int], st.tuples(kind.values, st.integers()).map(list)),  # type: ignore[name-defined]
                Kind(
                    dict[Literal["x", "y"], kind.type],  # type: ignore[name-defined]
                    st.dictionaries(st.sampled_from("xy"), kind.values, max_size=2),
                ),
            ]
        )

    def either(kinds: tuple[Kind, Kind]) -> Kind:
        left, right = kinds
        return Kind(left.type | right.type, left.values | right.values)

    models = payload_models(inner).map(lambda payload: Kind(payload.model, payload.payloads))
    return inner.flatmap(listed) | st.tuples(inner, inner).map(either) | models


def payload_models(kinds: st.SearchStrategy[Kind]) -> st.SearchStrategy[Payload]:
    fields = st.dictionaries(st.sampled_from("pqr"), kinds, min_size=1, max_size=3)
    return fields.flatmap(
        lambda found: st.builds(
            Payload,
            st.just(found),
            st.frozensets(st.sampled_from(sorted(found))),
            st.just(False) | st.booleans(),
        )
    )


KINDS = st.recursive(_SIMPLE, _wider, max_leaves=3)
PAYLOADS = payload_models(KINDS)


@st.composite
def changed(draw: st.DrawFn, old: Payload) -> Payload:
    """The model after somebody has worked at it: at most two changes."""
    new = old
    for _ in range(draw(st.integers(1, 2))):
        new = draw(st.sampled_from(_CHANGES))(draw, new)
    return new


def _another_kind(draw: st.DrawFn, old: Payload) -> Payload:
    name = draw(st.sampled_from(sorted(old.fields)))
    return replace(old, fields={**old.fields, name: draw(KINDS)})


def _a_wider_kind(draw: st.DrawFn, old: Payload) -> Payload:
    """What people do with intent: the same, or something else too."""
    name = draw(st.sampled_from(sorted(old.fields)))
    kind, more = old.fields[name], draw(_SIMPLE)
    wider = Kind(more.type | kind.type, more.values | kind.values)
    return replace(old, fields={**old.fields, name: wider})


def _one_more(draw: st.DrawFn, old: Payload) -> Payload:
    new = replace(old, fields={**old.fields, "new": draw(KINDS)})
    return replace(new, optional=new.optional | {"new"}) if draw(st.booleans()) else new


def _one_less(draw: st.DrawFn, old: Payload) -> Payload:
    name = draw(st.sampled_from(sorted(old.fields)))
    fields = {other: kind for other, kind in old.fields.items() if other != name}
    return replace(old, fields=fields, optional=old.optional - {name}) if fields else old


def _optional(draw: st.DrawFn, old: Payload) -> Payload:
    name = draw(st.sampled_from(sorted(old.fields)))
    return replace(old, optional=old.optional ^ {name})


def _closed(_draw: st.DrawFn, old: Payload) -> Payload:
    return replace(old, closed=not old.closed)


_CHANGES = (_another_kind, _a_wider_kind, _one_more, _one_less, _optional, _closed)
