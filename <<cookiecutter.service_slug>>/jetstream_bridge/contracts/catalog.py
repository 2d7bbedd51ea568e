"""All events of a service in one list: what it publishes, what it handles, and on which subjects.

It is made of what is declared and registered, and nobody is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jetstream_bridge.contracts.payload_schemas import LOCAL_REFERENCES, read_schema, written_schema
from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.events.declared_events import DeclaredEvent, DeclaredEvents
from jetstream_bridge.inbox.handlers import Handler, matches
from jetstream_bridge.inbox.registry import Consumers
from jetstream_bridge.topology.durable_names import DEAD_LETTERS, DurableSpec


@dataclass(frozen=True, slots=True)
class PublishedEvent:
    """One version of an event type that this service publishes."""

    declared: DeclaredEvent
    destinations: tuple[str, ...]
    subjects: tuple[str, ...]

    @property
    def event_type(self) -> str:
        return self.declared.event_type

    @property
    def schema_version(self) -> int:
        return self.declared.schema_version

    @property
    def place(self) -> str:
        return self.declared.place

    def schema(self, *, references: str = LOCAL_REFERENCES) -> dict[str, object]:
        return written_schema(self.declared.model, references=references)


@dataclass(frozen=True, slots=True)
class HandledEvent:
    """One pattern of event types that a handler takes from one source."""

    pattern: str
    source: str  # the service that it comes from
    default_source: bool  # whether that is DESTINATION_APP
    handler: Handler
    durable: DurableSpec
    schema_version: int | None  # the version that its handler reads; None: it does not say
    oldest_version: int | None  # from which on up-casters lead to it; None: there are none

    @property
    def place(self) -> str:
        return self.handler.name

    def schema(self, *, references: str = LOCAL_REFERENCES) -> dict[str, object]:
        return read_schema(self.handler.payload_type, references=references)


@dataclass(frozen=True, slots=True)
class EventCatalog:
    """What a service publishes and handles."""

    config: BridgeConfig
    published: tuple[PublishedEvent, ...]
    handled: tuple[HandledEvent, ...]


def event_catalog(
    config: BridgeConfig, declared: DeclaredEvents, consumers: Consumers
) -> EventCatalog:
    """Return the events in the order of their types.

    Raises `RegistrationError` where registrations do not fit together.
    """
    consumers.check()
    handled = sorted(_handled(config, consumers), key=lambda one: (one.source, one.pattern))
    return EventCatalog(config, tuple(_published(config, one) for one in declared), tuple(handled))


def _published(config: BridgeConfig, event: DeclaredEvent) -> PublishedEvent:
    destinations = event.destinations or (config.destination_app,)
    subjects = tuple(config.names.publish(name) for name in destinations)
    return PublishedEvent(event, destinations, subjects)


def _handled(config: BridgeConfig, consumers: Consumers) -> Iterator[HandledEvent]:
    durables = {spec.source: spec for spec in consumers.durables(config)}
    for handler in consumers:
        if handler.source == DEAD_LETTERS:
            continue
        for pattern in handler.patterns:
            oldest, target = _versions(handler, pattern, consumers)
            yield HandledEvent(
                pattern=pattern,
                source=handler.source or config.destination_app,
                default_source=handler.source is None,
                handler=handler,
                durable=durables[handler.source],
                schema_version=target,
                oldest_version=oldest,
            )


def _versions(
    handler: Handler, pattern: str, consumers: Consumers
) -> tuple[int | None, int | None]:
    """From which version on the up-casters of an exact type lead, and to which one."""
    chains = [
        chain
        for event_type, chain in consumers.steps(handler.source).items()
        if matches(pattern, event_type)
    ]
    if not chains:
        return None, handler.options.schema_version
    # A pattern has as many chains as there are types; what all of them read is the common part.
    return max(chain.first.from_version for chain in chains), chains[0].target
