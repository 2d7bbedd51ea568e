"""The events of this process' service as documents, made when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from jetstream_bridge.contracts.asyncapi import asyncapi
from jetstream_bridge.contracts.catalog import EventCatalog
from jetstream_bridge.service.settings import BridgeSettings
from jetstream_bridge.service.versions import service_version


class EventDocuments:
    """The list of events, and the AsyncAPI document with and without NATS' addresses."""

    def __init__(self, settings: BridgeSettings, make_catalog: Callable[[], EventCatalog]) -> None:
        self._settings = settings
        self._make_catalog = make_catalog

    @cached_property
    def catalog(self) -> EventCatalog:
        return self._make_catalog()

    @cached_property
    def public(self) -> dict[str, Any]:
        """For everybody: where NATS is, is nobody's business outside."""
        return self._document(servers=False)

    @cached_property
    def whole(self) -> dict[str, Any]:
        """For operators."""
        return self._document(servers=True)

    def _document(self, *, servers: bool) -> dict[str, Any]:
        settings = self._settings
        return asyncapi(
            self.catalog,
            title=settings.service_name,
            version=service_version(settings.root),
            description=settings.description,
            servers=servers,
        )
