"""Which handler gets which event, decided when the service starts and not when one arrives."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession as SQLAlchemySession

from .envelope import ReceivedEnvelope
from .errors import PayloadError, RegistrationError
from .event import Event
from .publisher import Publisher
from .subjects import validate_app

HandlerFunction = Callable[..., Awaitable[None]]
H = TypeVar("H", bound=HandlerFunction)

_RULE = "write an exact type like 'customer.created', a prefix like 'customer.*', or '*'"


@dataclass(frozen=True)
class Handler:
    """One registered function, with what it wants and how it runs."""

    function: HandlerFunction
    pattern: str
    source: str | None  # None: the default destination
    isolated: bool
    payload_type: Any
    wants: tuple[tuple[str, type], ...]  # parameter name, and what to pass for it

    @property
    def name(self) -> str:
        return f"{self.function.__module__}.{self.function.__qualname__}"

    @property
    def place(self) -> str:
        """File and line, for a person who has to find it."""
        code = inspect.unwrap(self.function).__code__
        return f"{self.name} ({code.co_filename}:{code.co_firstlineno})"

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.payload_type)

    def payload(self, envelope: ReceivedEnvelope) -> Any:
        """Return the payload as the handler wants it; raise `PayloadError` if it does not fit."""
        try:
            return self._adapter.validate_python(envelope.payload)
        except ValidationError as error:
            # Never the values: they may be personal, and this text is logged and stored.
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc'])) or 'payload'}: {fault['msg']}"
                for fault in error.errors(include_url=False, include_input=False)[:5]
            )
            raise PayloadError(
                f"the payload of {envelope.type!r} does not fit {self.name}: {faults}"
            ) from None


class Consumers:
    """The handlers of a service, by source and event type."""

    def __init__(self) -> None:
        self._handlers: list[Handler] = []

    def on(
        self, event_type: str, *, source: str | None = None, isolated: bool = False
    ) -> Callable[[H], H]:
        """Register the decorated coroutine function for `event_type`.

        `event_type` is exact (`customer.created`), a prefix (`customer.*`), or `*`. `source` is
        a service other than the default destination; it gets a durable of its own. `isolated`
        gives every event a transaction of its own: for a handler that calls another system.

        The function takes what it needs by annotation: `Event[Model]` or `Event[dict]`,
        `AsyncSession`, `Publisher`, `logging.Logger`. Raises `RegistrationError` when it asks
        for something else, or when another handler would get some of the same events.
        """
        _check_pattern(event_type)
        if source is not None:
            validate_app("source", source)

        def register(function: H) -> H:
            self._add(_handler(function, event_type, source, isolated))
            return function

        return register

    def _add(self, new: Handler) -> None:
        for old in self._handlers:
            if old.source == new.source and _overlap(old.pattern, new.pattern):
                raise RegistrationError(
                    f"{new.place} is registered for {new.pattern!r}, and {old.place} for "
                    f"{old.pattern!r} already: an event has one handler; merge them, or narrow one"
                )
        self._handlers.append(new)

    @property
    def sources(self) -> tuple[str, ...]:
        """The services other than the default destination that handlers listen to."""
        return tuple(sorted({h.source for h in self._handlers if h.source is not None}))

    def find(self, envelope: ReceivedEnvelope, source: str | None) -> Handler | None:
        """Return the handler of an event from `source`, however its type is spelled."""
        for handler in self._handlers:
            if handler.source == source and (
                _matches(handler.pattern, envelope.type)
                or _matches(handler.pattern, envelope.event_type)
            ):
                return handler
        return None


def _check_pattern(pattern: str) -> None:
    prefix = pattern[:-2] if pattern.endswith(".*") else pattern
    if pattern != "*" and (not prefix or "*" in prefix or prefix != prefix.strip()):
        raise RegistrationError(f"event type {pattern!r} is no pattern; {_RULE}")


def _matches(pattern: str, event_type: str) -> bool:
    if pattern == "*":
        return True
    if pattern.endswith(".*"):
        return event_type.startswith(pattern[:-1])
    return pattern == event_type


def _overlap(left: str, right: str) -> bool:
    """Two prefixes overlap when one contains the other, so one test each way is enough."""
    return _matches(left, right) or _matches(right, left)


def _handler(
    function: HandlerFunction, pattern: str, source: str | None, isolated: bool
) -> Handler:
    name = getattr(function, "__qualname__", repr(function))
    if not inspect.iscoroutinefunction(function):
        raise RegistrationError(f"{name} is not a coroutine function; write `async def`")
    hints = get_type_hints(function)
    payload_type: Any = dict[str, Any]
    wants: list[tuple[str, type]] = []
    for parameter in inspect.signature(function).parameters:
        hint = hints.get(parameter)
        if hint is Event or get_origin(hint) is Event:
            payload_type = _payload_type(name, hint)
            wants.append((parameter, Event))
        else:
            wants.append((parameter, _dependency(name, parameter, hint)))
    if Event not in (kind for _, kind in wants):
        raise RegistrationError(f"{name} takes no event; give it a parameter `event: Event[...]`")
    return Handler(function, pattern, source, isolated, payload_type, tuple(wants))


def _payload_type(name: str, hint: Any) -> Any:
    arguments = get_args(hint)
    if not arguments or arguments[0] is dict:
        return dict[str, Any]
    payload_type = arguments[0]
    is_model = isinstance(payload_type, type) and issubclass(payload_type, BaseModel)
    if not is_model and get_origin(payload_type) is not dict:
        raise RegistrationError(
            f"{name} wants Event[{payload_type!r}]; the payload is a Pydantic model or a dict"
        )
    return payload_type


def _dependency(name: str, parameter: str, hint: Any) -> type:
    if isinstance(hint, type):
        if issubclass(hint, SQLAlchemySession):
            return SQLAlchemySession
        if issubclass(hint, Publisher):
            return Publisher
        if issubclass(hint, logging.Logger):
            return logging.Logger
    raise RegistrationError(
        f"{name} has a parameter {parameter!r} of type {hint!r}; annotate it as Event[...], "
        "AsyncSession, Publisher or logging.Logger"
    )
