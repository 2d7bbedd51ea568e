"""What a handler or a middleware may ask for by the type of a parameter, decided when it registers.

The event and the session are the transaction's own; nothing here opens or commits anything.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, get_args, get_origin, get_type_hints

from sqlalchemy.ext.asyncio import AsyncSession as SQLAlchemySession
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge.core.errors import RegistrationError
from jetstream_bridge.core.logger import structlog
from jetstream_bridge.events.dead_letter import DeadLetter
from jetstream_bridge.events.event import Event
from jetstream_bridge.outbox.publisher import Publisher

PublisherFactory = Callable[[AsyncSession], Publisher]
Resources = Mapping[type, object]  # what this process has opened, by type
Wants = tuple[tuple[str, type], ...]  # parameter name, and what to pass for it

_BOUND = structlog.stdlib.BoundLogger
_KINDS: tuple[type, ...] = (SQLAlchemySession, Publisher, logging.Logger, _BOUND)
_REMEDY = "AsyncSession, Publisher, logging.Logger or structlog's BoundLogger"


def hints_of(function: Callable[..., Any], name: str) -> list[tuple[str, Any]]:
    """Return the parameters of `function` and what they are annotated with."""
    parameters = inspect.signature(function).parameters.values()
    try:
        hints = get_type_hints(inspect.unwrap(function))
    except NameError as error:
        raise RegistrationError(
            f"{name} has an annotation that does not exist when it runs: {error}; import the type "
            "at the top of the module, and not under TYPE_CHECKING"
        ) from error
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            raise RegistrationError(
                f"{name} has a parameter {str(parameter)!r}, which cannot be passed by name; "
                "write plain parameters"
            )
    return [(parameter.name, hints.get(parameter.name)) for parameter in parameters]


def dependency(
    name: str, parameter: str, hint: Any, *, instead: str, resources: Collection[type] = ()
) -> type:
    """Return what to pass for a parameter; raise `RegistrationError` if there is no such thing.

    `resources` are the types of what the service opens itself.
    """
    if isinstance(hint, type):
        if hint in resources:
            return hint
        for kind in _KINDS:
            if issubclass(hint, kind):
                return kind
    shown = "no type" if hint is None else f"type {hint!r}"
    own = f", or the type of a resource: {_listed(resources)}" if resources else ""
    raise RegistrationError(
        f"{name} has a parameter {parameter!r} of {shown}; annotate it as {instead}{_REMEDY}{own}"
    )


def _listed(kinds: Iterable[type]) -> str:
    return ", ".join(kind.__qualname__ for kind in kinds)


def is_event(hint: Any) -> bool:
    return hint is Event or get_origin(hint) is Event


def is_list_of_events(hint: Any) -> bool:
    return get_origin(hint) is list and is_event(get_args(hint)[0])


class Supplies:
    """What there is to ask for while an event, or a list of them, is handled."""

    __slots__ = ("_publisher", "_resources", "event", "session")

    def __init__(
        self,
        event: Event[Any] | list[Event[Any]],
        session: AsyncSession,
        publisher: PublisherFactory,
        resources: Resources,
    ) -> None:
        self.event: Any = event
        self.session = session
        self._publisher = publisher
        self._resources = resources

    def arguments(self, wants: Wants, module: str) -> dict[str, object]:
        """Return the arguments for a function of `module`."""
        if not wants:
            return {}
        return {name: self._of(kind, module) for name, kind in wants}

    def _of(self, kind: type, module: str) -> object:
        if kind is Event or kind is list:
            return self.event
        if kind is SQLAlchemySession:
            return self.session
        if kind is Publisher:
            return self._publisher(self.session)
        if kind is DeadLetter:
            return self.event.payload
        if kind is _BOUND:
            return structlog.stdlib.get_logger(module).bind(**self._log_fields())
        if kind is logging.Logger:
            return logging.getLogger(module)
        return self._resources[kind]

    def _log_fields(self) -> dict[str, object]:
        if isinstance(self.event, list):
            return {"events": len(self.event), "event_type": self.event[0].type}
        event = self.event
        return {"event_id": event.event_id, "event_type": event.type, "trace_id": event.trace_id}
