"""Events of an older schema version, brought to the one that the handlers of today read.

An up-caster turns the payload of one version into that of the next; several run one after
another, each on a payload of its event's own. A version that none leads on from is an error, for
a handler would read it as something that it is not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from jetstream_bridge.core.errors import PayloadError, RegistrationError, UpcastError
from jetstream_bridge.core.subjects import validate_app
from jetstream_bridge.events.frozen_json import thawed
from jetstream_bridge.events.received_envelope import ReceivedEnvelope

UpcastFunction = Callable[[dict[str, Any]], dict[str, Any]]
U = TypeVar("U", bound=UpcastFunction)


@dataclass(frozen=True, slots=True)
class Upcaster:
    """One step: from `from_version` to the next."""

    function: UpcastFunction
    event_type: str
    from_version: int

    @property
    def name(self) -> str:
        return f"{self.function.__module__}.{self.function.__qualname__}"

    @property
    def place(self) -> str:
        code = inspect.unwrap(self.function).__code__
        return f"{self.name} ({code.co_filename}:{code.co_firstlineno})"

    def __call__(self, payload: dict[str, Any]) -> dict[str, Any]:
        step = f"the up-caster {self.name} of {self.event_type!r} from version {self.from_version}"
        try:
            result = self.function(payload)
        except MemoryError:
            raise  # no fault of the event's
        except Exception as error:
            raise UpcastError(f"{step} failed: {type(error).__name__}: {error}") from error
        if not isinstance(result, dict):
            raise UpcastError(f"{step} returned {type(result).__name__}; return the new dict")
        return result


class UpcastChain:
    """The up-casters of one event type, without a gap, lowest version first."""

    def __init__(self, first: Upcaster) -> None:
        self._event_type = first.event_type
        self._steps = [first]

    @property
    def target(self) -> int:
        """The version that a payload has after the last step."""
        return self._steps[-1].from_version + 1

    @property
    def first(self) -> Upcaster:
        return self._steps[0]

    @property
    def last(self) -> Upcaster:
        return self._steps[-1]

    def add(self, new: Upcaster) -> None:
        lowest, highest = self._steps[0], self._steps[-1]
        if new.from_version == highest.from_version + 1:
            self._steps.append(new)
            return
        if new.from_version == lowest.from_version - 1:
            self._steps.insert(0, new)
            return
        for old in self._steps:
            if old.from_version == new.from_version:
                raise RegistrationError(
                    f"{new.place} brings {new.event_type!r} from version {new.from_version} to "
                    f"{new.from_version + 1}, and so does {old.place}; keep one"
                )
        near = highest if new.from_version > highest.from_version else lowest
        raise RegistrationError(
            f"{new.place} begins at version {new.from_version} of {new.event_type!r}, and "
            f"{near.place} at version {near.from_version}: there is a gap between them; register "
            "the up-casters of a type in order, one for each version"
        )

    def apply(self, envelope: ReceivedEnvelope) -> ReceivedEnvelope:
        """Return the envelope with its payload and version as they are today."""
        version = envelope.schema_version
        if version == self.target:
            return envelope
        lowest = self._steps[0].from_version
        if version < lowest:
            raise UpcastError(
                f"no up-caster of {self._event_type!r} leads on from version {version}; register "
                f"one for each version from {version} to {lowest - 1}"
            )
        if not isinstance(envelope.payload, dict):
            raise PayloadError(f"the payload of {envelope.type!r} is no object")
        payload = thawed(envelope.payload)  # `raw` stays as it came
        for step in self._steps[version - lowest :]:
            payload = step(payload)
        return replace(envelope, payload=payload, schema_version=self.target, body=None)


class UpcasterRegistry:
    """All up-casters of a service, by source and event type."""

    def __init__(self) -> None:
        self._steps: dict[str | None, dict[str, UpcastChain]] = {}

    def upcast(
        self, event_type: str, *, from_version: int, source: str | None = None
    ) -> Callable[[U], U]:
        """Register the decorated function to bring a payload from `from_version` to the next.

        `event_type` is exact. The function gets the payload as a `dict` of its own and returns
        the new one; it is plain, not `async`, for it only rewrites what it is given. Raises
        `RegistrationError`, naming both places, when a step is there already or leaves a gap.
        """
        if not event_type or "*" in event_type or event_type != event_type.strip():
            raise RegistrationError(
                f"{event_type!r} is no exact event type; an up-caster is for one, like "
                "'customer.created'"
            )
        if not isinstance(from_version, int) or isinstance(from_version, bool) or from_version < 1:
            raise RegistrationError(
                f"from_version {from_version!r} is no schema version; write a whole number from 1"
            )
        if source is not None:
            validate_app("source", source)

        def register(function: U) -> U:
            if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
                raise RegistrationError(
                    f"the up-caster {function!r} of {event_type!r} is no plain function; "
                    "write `def`, with the payload as its one argument"
                )
            self._add(source, Upcaster(function, event_type, from_version))
            return function

        return register

    def _add(self, source: str | None, new: Upcaster) -> None:
        of_source = self._steps.setdefault(source, {})
        steps = of_source.get(new.event_type)
        if steps is None:
            of_source[new.event_type] = UpcastChain(new)
        else:
            steps.add(new)

    def of(self, source: str | None) -> dict[str, UpcastChain]:
        """The up-casters for events of `source`, by type."""
        return self._steps.get(source, {})
