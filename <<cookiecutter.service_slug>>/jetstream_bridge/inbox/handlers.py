"""One registered function: what it takes, how it runs, and where to find it.

Everything that a registration says is checked when it is made. An option that could not be
honoured is refused there, with the reason.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError, create_model
from pydantic_core import to_json

from jetstream_bridge.core.errors import PayloadError, RegistrationError
from jetstream_bridge.events.dead_letter import DeadLetter
from jetstream_bridge.events.event import Event
from jetstream_bridge.events.payload_faults import payload_faults
from jetstream_bridge.events.received_envelope import ReceivedEnvelope
from jetstream_bridge.inbox.dependencies import (
    Wants,
    dependency,
    hints_of,
    is_event,
    is_list_of_events,
)
from jetstream_bridge.inbox.options import Options

HandlerFunction = Callable[..., Awaitable[None]]

LETTERS = "dead_letter"  # in the place of an event type

_RULE = "write an exact type like 'customer.created', a prefix like 'customer.*', or '*'"


@dataclass(frozen=True, eq=False, kw_only=True)
class Handler:
    """One registered function, with what it wants and how it runs."""

    function: HandlerFunction
    patterns: tuple[str, ...]
    source: str | None  # None: the default destination
    options: Options
    payload_type: Any
    wants: Wants

    @property
    def name(self) -> str:
        return f"{self.function.__module__}.{self.function.__qualname__}"

    @property
    def module(self) -> str:
        return self.function.__module__

    @property
    def place(self) -> str:
        """File and line, for a person who has to find it."""
        code = inspect.unwrap(self.function).__code__
        return f"{self.name} ({code.co_filename}:{code.co_firstlineno})"

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        """Reads the payload out of the envelope's own text.

        JSON has no moments, UUIDs, decimals or bytes; only as JSON does Pydantic take them from a
        text where a model is strict, and by the model's own rules for JSON where it is not.
        """
        return TypeAdapter(create_model("Envelope", payload=(self.payload_type, ...)))

    def payload(self, envelope: ReceivedEnvelope) -> Any:
        """Return the payload as the handler wants it; raise `PayloadError` if it does not fit.

        A validator of the service's own may raise anything else.
        """
        if self.payload_type == dict[str, Any] and type(envelope.payload) is dict:
            return envelope.payload  # nothing to check
        try:
            return self._adapter.validate_json(envelope.body or _json_of(envelope)).payload
        except ValidationError as error:
            raise PayloadError(
                f"the payload of {envelope.type!r:.300} does not fit {self.name}: "
                f"{payload_faults(error, below=1)}"
            ) from None

    def pattern_of(self, envelope: ReceivedEnvelope) -> str:
        """The pattern by which the event came here."""
        if envelope.type in self.patterns:
            return envelope.type
        for pattern in self.patterns:
            if matches(pattern, envelope.type) or matches(pattern, envelope.event_type):
                return pattern
        return self.patterns[0]


def _json_of(envelope: ReceivedEnvelope) -> bytes:
    """The text of a payload that up-casters made."""
    try:
        return to_json({"payload": envelope.payload})
    except (ValueError, RecursionError) as error:  # one of Pydantic's is a ValueError
        raise PayloadError(
            f"what the up-casters made of {envelope.type!r:.300} is no JSON: {error}"
        ) from error


def event_handler(
    function: HandlerFunction,
    patterns: tuple[str, ...],
    source: str | None,
    how: Options,
    resources: Collection[type] = (),
) -> Handler:
    """Return a handler of events; raise `RegistrationError` if it asks for what there is not."""
    name = _name_of(function)
    payload_type: Any = dict[str, Any]
    wants: list[tuple[str, type]] = []
    for parameter, hint in hints_of(function, name):
        if is_event(hint):
            payload_type = _payload_type(name, hint)
            wants.append((parameter, Event))
        elif is_list_of_events(hint):
            payload_type = _payload_type(name, get_args(hint)[0])
            wants.append((parameter, list))
        elif hint is DeadLetter:
            raise RegistrationError(f"{name} takes a DeadLetter; register it with on_dead_letter()")
        else:
            wanted = dependency(name, parameter, hint, instead="Event[...], ", resources=resources)
            wants.append((parameter, wanted))
    _check_takes_events(name, {kind for _, kind in wants}, how.batch)
    return Handler(
        function=function,
        patterns=patterns,
        source=source,
        options=how,
        payload_type=payload_type,
        wants=tuple(wants),
    )


def _check_takes_events(name: str, kinds: set[type], batch: int | None) -> None:
    """One event, or a list of them where the registration says `batch`."""
    if batch is None and list in kinds:
        raise RegistrationError(
            f"{name} takes a list of events; say how many at most: `batch=100`, or take one event"
        )
    if batch is not None and list not in kinds:
        raise RegistrationError(
            f"{name} is registered with batch={batch}; give it a parameter "
            "`events: list[Event[...]]`"
        )
    if batch is None and Event not in kinds:
        raise RegistrationError(f"{name} takes no event; give it a parameter `event: Event[...]`")
    if {list, Event} <= kinds:
        raise RegistrationError(f"{name} takes a list of events and one event; keep the list")


def letter_handler(
    function: HandlerFunction, source: str, how: Options, resources: Collection[type] = ()
) -> Handler:
    """Return a handler of dead letters, which asks for the `DeadLetter` and not for an event."""
    name = _name_of(function)
    wants: list[tuple[str, type]] = []
    for parameter, hint in hints_of(function, name):
        if hint is DeadLetter:
            wants.append((parameter, DeadLetter))
        else:
            wanted = dependency(name, parameter, hint, instead="DeadLetter, ", resources=resources)
            wants.append((parameter, wanted))
    if DeadLetter not in (kind for _, kind in wants):
        raise RegistrationError(
            f"{name} takes no dead letter; give it a parameter `letter: DeadLetter`"
        )
    return Handler(
        function=function,
        patterns=(LETTERS,),
        source=source,
        options=how,
        payload_type=DeadLetter,
        wants=tuple(wants),
    )


def _name_of(function: HandlerFunction) -> str:
    name = getattr(function, "__qualname__", repr(function))
    if not inspect.iscoroutinefunction(function):
        raise RegistrationError(f"{name} is not a coroutine function; write `async def`")
    return name


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


def checked_patterns(patterns: tuple[object, ...]) -> tuple[str, ...]:
    """Return the patterns of one registration; none of them may take in another."""
    if not patterns:
        raise RegistrationError(f"no event type is named; {_RULE}")
    checked: list[str] = []
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise RegistrationError(f"event type {pattern!r} is no text; {_RULE}")
        prefix = pattern[:-2] if pattern.endswith(".*") else pattern
        if pattern != "*" and (not prefix or "*" in prefix or prefix != prefix.strip()):
            raise RegistrationError(f"event type {pattern!r} is no pattern; {_RULE}")
        for other in checked:
            if overlap(pattern, other):
                raise RegistrationError(
                    f"{pattern!r} and {other!r} of one registration take the same events; "
                    "drop the narrower one"
                )
        checked.append(pattern)
    return tuple(checked)


def matches(pattern: str, event_type: str) -> bool:
    if pattern == "*":
        return True
    if pattern.endswith(".*"):
        return event_type.startswith(pattern[:-1])
    return pattern == event_type


def overlap(left: str, right: str) -> bool:
    """Two prefixes overlap when one contains the other, so one test each way is enough."""
    return matches(left, right) or matches(right, left)
