"""JSON that cannot be changed: what a handler reads is what the next try of the event reads.

A `FrozenDict` is a `dict` and a `FrozenList` a `list` for everything that reads: `json.dumps`,
Pydantic, `==`, `|`, `**`. Keys are also attributes, `payload.customer.name`, except those that
are methods of a `dict`, such as `items`. `copy.deepcopy` gives plain ones that may be changed.
"""

from __future__ import annotations

from typing import Any, NoReturn

_PLAIN = frozenset({str, int, float, bool, type(None)})


def frozen(value: Any) -> Any:
    """Return `value` with each plain `dict` and `list` in it replaced; the rest stays as it is."""
    kind = type(value)
    if kind is dict:
        return FrozenDict(
            {key: item if type(item) in _PLAIN else frozen(item) for key, item in value.items()}
        )
    if kind is list:
        return FrozenList([item if type(item) in _PLAIN else frozen(item) for item in value])
    return value


def thawed(value: Any) -> Any:
    """Return a copy of `value` that may be changed, with plain dicts and lists."""
    if isinstance(value, dict):
        return {key: thawed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [thawed(item) for item in value]
    return value


def _refuse(self: object, *args: object, **kwargs: object) -> NoReturn:
    raise TypeError("an event cannot be changed; copy.deepcopy() gives a copy that can")


class FrozenDict(dict[str, Any]):
    """A JSON object with item and attribute access."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            there = ", ".join(map(repr, self)) or "nothing"
            raise AttributeError(f"there is no {name!r} here; there is {there}") from None

    def __reduce__(self) -> tuple[type[FrozenDict], tuple[dict[str, Any]]]:
        return FrozenDict, (dict(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        plain: dict[str, Any] = thawed(self)
        return plain

    __setitem__ = __delitem__ = __ior__ = _refuse
    __setattr__ = __delattr__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


class FrozenList(list[Any]):
    """A JSON array."""

    __slots__ = ()

    def __reduce__(self) -> tuple[type[FrozenList], tuple[list[Any]]]:
        return FrozenList, (list(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        plain: list[Any] = thawed(self)
        return plain

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse
