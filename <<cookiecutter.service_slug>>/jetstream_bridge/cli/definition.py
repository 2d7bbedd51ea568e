"""Whose commands these are: the service that `make_cli` was told of."""

from __future__ import annotations

from contextvars import ContextVar

from jetstream_bridge.service.definition import ServiceDefinition

_definition: ContextVar[ServiceDefinition] = ContextVar("definition")


def define(service: ServiceDefinition) -> None:
    """Let the command that runs know the code of its service."""
    _definition.set(service)


def definition() -> ServiceDefinition:
    """Return the code of the service whose command runs."""
    return _definition.get()
