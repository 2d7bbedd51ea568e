"""What a process opens beside the bridge: an HTTP client, a cache, a connection to another system.

Each is opened before the first handler runs, in the order of registration, and closed after the
last one has ended, in the opposite order. Opening and closing have time limits.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.errors import RegistrationError, ResourceError
from jetstream_bridge.core.logger import get_logger
from jetstream_bridge.inbox.dependencies import Wants, hints_of

OPEN_WITHIN = 30.0  # seconds for all of a process' resources together
CLOSE_WITHIN = 3.0  # seconds for all of them, of the few that a process has after its grace
_LEAST_CLOSE = 0.1  # seconds that each of them has in any case

OpenFunction = Callable[..., AsyncIterator[Any]]

_FORM = "write `async def name(...) -> AsyncIterator[Type]:` with one `yield`"

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Resource:
    """One registered function, and the type of what it yields."""

    name: str
    kind: type
    wants: Wants
    function: OpenFunction

    def make(self, values: Mapping[type, object]) -> AbstractAsyncContextManager[object]:
        arguments = {parameter: values[kind] for parameter, kind in self.wants}
        return asynccontextmanager(self.function)(**arguments)


def resource_of(function: OpenFunction, known: Collection[type]) -> Resource:
    """Return `function` as a resource; raise `RegistrationError` if it cannot be one.

    `known` are the types that its parameters may have.
    """
    name = getattr(function, "__qualname__", repr(function))
    if not inspect.isasyncgenfunction(function):
        raise RegistrationError(f"{name} is no asynchronous generator; {_FORM}")
    wants = wants_of(function, name, known)
    kind = next(iter(get_args(get_type_hints(function).get("return"))), None)
    if not isinstance(kind, type) or kind is object:
        raise RegistrationError(f"{name} does not say which class it yields; {_FORM}")
    if kind in known:
        raise RegistrationError(
            f"{name} yields {kind.__qualname__}, and there is one already; yield a class of your "
            "own that holds it"
        )
    return Resource(name, kind, wants, function)


def wants_of(function: Callable[..., Any], name: str, known: Collection[type]) -> Wants:
    """Return what the parameters of `function` are to be given, by their types."""
    wants = []
    for parameter, hint in hints_of(function, name):
        if hint not in known:
            kinds = ", ".join(kind.__qualname__ for kind in known)
            raise RegistrationError(
                f"{name} has a parameter {parameter!r} of type {hint!r}; known here are {kinds}"
            )
        wants.append((parameter, hint))
    return tuple(wants)


class OpenResources(Mapping[type, Any]):
    """What one process has open, by type. `given` was there before."""

    def __init__(self, given: Mapping[type, object]) -> None:
        self._values = dict(given)
        self._open: list[tuple[Resource, AbstractAsyncContextManager[object]]] = []

    def __getitem__(self, kind: type) -> Any:
        return self._values[kind]

    def __iter__(self) -> Iterator[type]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    async def open(
        self,
        resources: Iterable[Resource],
        *,
        instead: Mapping[type, object] | None = None,
        within: float = OPEN_WITHIN,
    ) -> None:
        """Open `resources` within so many seconds; raise `ResourceError` naming which one failed.

        What is in `instead` takes the place of a resource, and is neither opened nor closed.
        """
        ends_at = loop_time() + within
        for resource in resources:
            if instead and resource.kind in instead:
                self._values[resource.kind] = instead[resource.kind]
                continue
            await self._open_one(resource, ends_at - loop_time(), within)

    async def _open_one(self, resource: Resource, left: float, within: float) -> None:
        opening = resource.make(self._values)
        try:
            async with asyncio.timeout(left) as limit:
                self._values[resource.kind] = await opening.__aenter__()
        except Exception as error:
            late = isinstance(error, TimeoutError) and limit.expired()
            why = f"not open within {within:g} s" if late else f"{type(error).__name__}: {error}"
            raise ResourceError(f"resource {resource.name} cannot be opened: {why}") from error
        self._open.append((resource, opening))

    async def close(self, *, within: float = CLOSE_WITHIN) -> None:
        """Close what was opened, the last one first; a fault is logged and keeps no other open."""
        ends_at = loop_time() + within
        while self._open:
            resource, opened = self._open.pop()
            try:
                async with asyncio.timeout(max(_LEAST_CLOSE, ends_at - loop_time())):
                    await opened.__aexit__(None, None, None)
            except Exception as error:
                _log.warning(
                    "resource could not be closed",
                    resource=resource.name,
                    error=f"{type(error).__name__}: {error}",
                )
