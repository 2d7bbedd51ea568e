"""The events that a service declares to publish: type, version, payload model, destinations.

What is declared leaves as declared: the model decides what is in the payload, as FastAPI's
`response_model` does for an answer. An event that nobody declared is published as it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from jetstream_bridge.core.errors import InvalidEventError, RegistrationError
from jetstream_bridge.core.subjects import validate_app
from jetstream_bridge.events.payload_faults import payload_faults
from jetstream_bridge.events.wire_rules import MAX_ID

M = TypeVar("M", bound=type[BaseModel])


@dataclass(frozen=True)
class DeclaredEvent:
    """One version of one event type. No `destinations`: any, and DESTINATION_APP by itself."""

    event_type: str
    schema_version: int
    model: type[BaseModel]
    destinations: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        return f"{self.model.__module__}.{self.model.__qualname__}"

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.model)

    def payload(self, given: object) -> dict[str, Any]:
        """Return what leaves; raise `InvalidEventError` where `given` is not as declared."""
        try:
            value = self._adapter.validate_python(
                given, from_attributes=True, by_alias=True, by_name=True
            )
        except ValidationError as error:
            raise InvalidEventError(
                f"the payload of {self.event_type!r} is not as {self.place} declares it: "
                f"{payload_faults(error)}"
            ) from None
        # By the declared class: what a subclass has beside it is no part of the event.
        document: dict[str, Any] = self._adapter.dump_python(value, mode="json")
        return document

    def destination(self, given: str | None) -> str | None:
        """Return where it goes, None for the default; raise `InvalidEventError` elsewhere."""
        if not self.destinations or given in self.destinations:
            return given
        if given is None and len(self.destinations) == 1:
            return self.destinations[0]
        said = "is not said" if given is None else f"is {given!r}"
        raise InvalidEventError(
            f"the destination of {self.event_type!r} {said}, and {self.place} is declared for "
            f"{', '.join(self.destinations)}; publish it to one of them"
        )


class DeclaredEvents:
    """What a service publishes, by type and version."""

    def __init__(self) -> None:
        self._by_type: dict[str, dict[int, DeclaredEvent]] = {}
        self._by_model: dict[type[BaseModel], list[DeclaredEvent]] = {}

    def publishes(
        self, *event_types: str, schema_version: int = 1, destinations: Sequence[str] = ()
    ) -> Callable[[M], M]:
        """Declare the decorated Pydantic model as the payload of these event types.

        `schema_version` is that of the payload; a second model may be declared for another one.
        `destinations` are the services that the event is for, where DESTINATION_APP is not the
        only one. Raises `RegistrationError` for a type that is none, or a version twice.
        """
        if not event_types:
            raise RegistrationError(
                "no event type is named; write one like @publishes('order.placed')"
            )
        for event_type in event_types:
            _check_type(event_type)
        if type(schema_version) is not int or schema_version < 1:
            raise RegistrationError(
                f"schema_version={schema_version!r} is no version; write a whole number from 1"
            )
        where = tuple(validate_app("destination", name) for name in _names(destinations))

        def register(model: M) -> M:
            if not isinstance(model, type) or not issubclass(model, BaseModel):
                raise RegistrationError(
                    f"{model!r} is no payload of {event_types[0]!r}; declare a Pydantic model"
                )
            for event_type in event_types:
                self._add(DeclaredEvent(event_type, schema_version, model, where))
            return model

        return register

    def _add(self, new: DeclaredEvent) -> None:
        versions = self._by_type.setdefault(new.event_type, {})
        if (old := versions.get(new.schema_version)) is not None:
            raise RegistrationError(
                f"{new.place} and {old.place} are both declared as version {new.schema_version} of "
                f"{new.event_type!r}; keep one, or give the newer one a higher schema_version"
            )
        versions[new.schema_version] = new
        self._by_model.setdefault(new.model, []).append(new)

    def __iter__(self) -> Iterator[DeclaredEvent]:
        """By type and version."""
        for _, versions in sorted(self._by_type.items()):
            for _, event in sorted(versions.items()):
                yield event

    def type_of(self, event: BaseModel) -> str | None:
        """Return the type that `event` is the payload of; None where it is no declared model.

        Raises `InvalidEventError` where its model is that of several types.
        """
        declared = self._by_model.get(type(event))
        if declared is None:
            return None
        types = sorted({one.event_type for one in declared})
        if len(types) > 1:
            raise InvalidEventError(
                f"{declared[0].place} is the payload of {' and '.join(types)}; say which one: "
                f"publish({types[0]!r}, payload)"
            )
        return types[0]

    def find(
        self, event_type: str, payload: object, schema_version: int | None
    ) -> DeclaredEvent | None:
        """Return how this event was declared, or None where nobody did.

        Without `schema_version` it is the version of the payload's class, or else the newest one.
        Raises `InvalidEventError` for a version that is not declared.
        """
        versions = self._by_type.get(event_type)
        if versions is None:
            return None
        if schema_version is None:
            own = [one for one in versions.values() if one.model is type(payload)]
            return max(own or versions.values(), key=lambda one: one.schema_version)
        if schema_version not in versions:
            raise InvalidEventError(
                f"{event_type!r} is declared in schema_version {_listed(versions)}, and not in "
                f"{schema_version!r}; declare a model for it, or leave the version out"
            )
        return versions[schema_version]


def _check_type(event_type: object) -> None:
    right = isinstance(event_type, str) and 0 < len(event_type) <= MAX_ID
    if not right or "*" in str(event_type) or event_type != str(event_type).strip():
        raise RegistrationError(
            f"{event_type!r} is no exact event type; write one like 'order.placed'"
        )


def _names(destinations: Sequence[str]) -> Sequence[str]:
    if isinstance(destinations, str):
        raise RegistrationError(
            f"destinations={destinations!r} is one text; write a list, [{destinations!r}]"
        )
    return destinations


def _listed(versions: dict[int, DeclaredEvent]) -> str:
    return " and ".join(map(str, sorted(versions)))
