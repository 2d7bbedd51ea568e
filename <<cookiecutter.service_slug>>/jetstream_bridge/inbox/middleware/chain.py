"""Middlewares around handlers: the first one added is the outermost, global ones come first.

They run inside the transaction that the handler's work belongs to. An error of the handler may
be kept from the worker only inside a savepoint: otherwise half of the handler's writes would be
committed with the rest.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from jetstream_bridge.core.errors import RegistrationError, TransactionControlError
from jetstream_bridge.events.event import Event
from jetstream_bridge.inbox.dependencies import Supplies, Wants, dependency, hints_of
from jetstream_bridge.inbox.middleware.ended import Observer

if TYPE_CHECKING:
    from jetstream_bridge.inbox.handlers import Handler


class CallNext(Protocol):
    """Goes on to the next middleware, or to the handler: `await call_next(event)`."""

    def __call__(self, event: Event[Any] | None = None, /) -> Awaitable[None]: ...


class CallNextBatch(Protocol):
    """The same around a handler that takes a list: `await call_next(events)`."""

    def __call__(self, events: list[Event[Any]] | None = None, /) -> Awaitable[None]: ...


# `async def __call__(self, event, call_next)`, an object or a function. After these two it may
# ask for more by type, as a handler does. Around a handler that takes a list of events its method
# `async def on_batch(self, events, call_next)` is called, once for the list.
Middleware = Callable[..., Awaitable[None]]
Part = Middleware | Observer

_BATCH_FORM = "write `async def on_batch(self, events, call_next)`"
_FORM = "write `async def __call__(self, event, call_next)`, or `def ended(self, end)`"


@dataclass(frozen=True, slots=True)
class _Link:
    function: Middleware
    wants: Wants
    module: str


def checked_parts(parts: Sequence[Part], resources: Collection[type] = ()) -> tuple[Part, ...]:
    """Return `parts`; raise `RegistrationError` for one that is neither of the two."""
    for part in parts:
        if isinstance(part, type):
            raise RegistrationError(
                f"{part.__name__} is a class; give an object: {part.__name__}()"
            )
        link = _link(part, resources)
        if link is None and not isinstance(part, Observer):
            raise RegistrationError(f"{part!r} is no middleware; {_FORM}")
        ended = getattr(part, "ended", None)
        if ended is not None and inspect.iscoroutinefunction(ended):
            raise RegistrationError(f"{part!r}: `ended` is told and returns at once; write `def`")
    return tuple(parts)


def _link(part: Part, resources: Collection[type]) -> _Link | None:
    """Return how to call `part`, or None for one that only observes."""
    if not callable(part):
        return None
    function: Middleware = part if inspect.isroutine(part) else type(part).__call__.__get__(part)
    return _checked_link(function, repr(part), _FORM, resources)


def _batch_link(part: Part, resources: Collection[type]) -> _Link | None:
    """Return how to call `part` around a list of events, or None for one that cannot."""
    function: Middleware | None = getattr(part, "on_batch", None)
    if function is None:
        return None
    return _checked_link(function, repr(part), _BATCH_FORM, resources)


def _checked_link(function: Middleware, part: str, form: str, resources: Collection[type]) -> _Link:
    name = getattr(function, "__qualname__", part)
    if not inspect.iscoroutinefunction(function):
        raise RegistrationError(f"{name} is not a coroutine function; {form}")
    hints = hints_of(function, name)
    if len(hints) < 2:
        raise RegistrationError(f"{name} takes no event and no call_next; {form}")
    wants = tuple(
        (parameter, dependency(name, parameter, hint, instead="", resources=resources))
        for parameter, hint in hints[2:]
    )
    return _Link(function, wants, function.__module__)


class Middlewares:
    """The global middlewares and observers of a service, and how they join a handler's own."""

    def __init__(self, resources: Collection[type] = ()) -> None:
        self._resources = resources
        self._parts: tuple[Part, ...] = ()
        self._chains: dict[Handler, Chain | None] = {}
        self._observers: dict[Handler | None, tuple[Observer, ...]] = {}
        self._tells: dict[Handler | None, bool] = {}
        self._takes_default: dict[Handler, bool] = {}

    @property
    def parts(self) -> tuple[Part, ...]:
        """The global ones, in order."""
        return self._parts

    def use(self, *parts: Part) -> None:
        self._parts += checked_parts(parts, self._resources)
        self._chains.clear()
        self._takes_default.clear()
        self._observers.clear()
        self._tells.clear()

    def chain(self, handler: Handler) -> Chain | None:
        """Return what wraps `handler`; None when nothing does."""
        try:
            return self._chains[handler]
        except KeyError:
            chain = self._chains[handler] = self._made(handler)
            return chain

    def _made(self, handler: Handler) -> Chain | None:
        links = self._links(handler)
        return Chain(links, handler) if links else None

    def wants(self, handler: Handler) -> Wants:
        """Return what `handler` and the middlewares around it ask for."""
        return (*handler.wants, *(want for link in self._links(handler) for want in link.wants))

    def _links(self, handler: Handler) -> list[_Link]:
        link_of = _batch_link if handler.options.batch else _link
        found = (link_of(part, self._resources) for part in self._of(handler))
        return [link for link in found if link is not None]

    def check(self, handler: Handler) -> None:
        """Raise `RegistrationError` where a middleware cannot wrap what `handler` takes."""
        if handler.options.batch is None:
            return
        for part in self._of(handler):
            if callable(part) and _batch_link(part, self._resources) is None:
                raise RegistrationError(
                    f"{handler.place} takes a list of events, and the middleware {part!r} wraps "
                    f"single ones; {_BATCH_FORM}, or let the handler take one event"
                )

    def limit(self, handler: Handler, default: float | None) -> float | None:
        """Return the seconds that `handler` may run; None where one of its middlewares knows."""
        try:
            return default if self._takes_default[handler] else None
        except KeyError:
            own = any(getattr(part, "limits_handlers", False) for part in self._of(handler))
            self._takes_default[handler] = not own
            return None if own else default

    def observers(self, handler: Handler | None) -> tuple[Observer, ...]:
        """Return who is told how events of `handler` end; None: of events without a handler."""
        try:
            return self._observers[handler]
        except KeyError:
            found = tuple(part for part in self._of(handler) if isinstance(part, Observer))
            self._observers[handler] = found
            return found

    def tells(self, handler: Handler | None) -> bool:
        """Whether one of its observers logs how each event ended."""
        try:
            return self._tells[handler]
        except KeyError:
            found = any(getattr(part, "tells", False) for part in self.observers(handler))
            self._tells[handler] = found
            return found

    def _of(self, handler: Handler | None) -> tuple[Part, ...]:
        return self._parts if handler is None else (*self._parts, *handler.options.middlewares)


class Chain:
    """The middlewares of one handler, and the handler at their end."""

    def __init__(self, links: Sequence[_Link], handler: Handler) -> None:
        self._links = tuple(links)
        self._handler = handler

    async def run(self, event: Event[Any] | list[Event[Any]], supplies: Supplies) -> None:
        """Pass `event`, or a list of them, through.

        Raises what comes out, or what was kept in without a savepoint.
        """
        run = _ChainRun(self._links, self._handler, supplies)
        await run.call(0, event)
        if run.unguarded:
            raise TransactionControlError(
                f"a middleware of {self._handler.name} kept {run.unguarded[0]!r} to itself, and "
                "what was written before it would be committed; call the next one inside "
                "`async with session.begin_nested()`"
            ) from run.unguarded[0]


class _ChainRun:
    """One passage through a chain."""

    __slots__ = ("_handler", "_links", "_session", "_supplies", "unguarded")

    def __init__(self, links: Sequence[_Link], handler: Handler, supplies: Supplies) -> None:
        self._links = links
        self._handler = handler
        self._supplies = supplies
        self._session = supplies.session.sync_session
        self.unguarded: list[BaseException] = []  # what passed a middleware outside a savepoint

    def call(self, position: int, event: Event[Any] | list[Event[Any]]) -> Awaitable[None]:
        """Call the link at `position`, or the handler behind the last one."""
        supplies, links = self._supplies, self._links
        supplies.event = event
        if position == len(links):
            handler = self._handler
            return handler.function(**supplies.arguments(handler.wants, handler.module))
        link = links[position]

        async def call_next(changed: Event[Any] | list[Event[Any]] | None = None, /) -> None:
            in_savepoint = self._session.in_nested_transaction()
            try:
                await self.call(position + 1, event if changed is None else changed)
            except BaseException as error:
                if not in_savepoint:
                    self.unguarded.append(error)
                raise

        return link.function(event, call_next, **supplies.arguments(link.wants, link.module))
