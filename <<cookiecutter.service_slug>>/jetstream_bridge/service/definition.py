"""What a service hands to this package: settings, handlers, extensions, each found by its name.

A name is `module:attribute`, as uvicorn takes it. The module is imported when it is asked for, so
that what needs neither starts quickly.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jetstream_bridge.inbox.registry import Consumers
    from jetstream_bridge.service.extensions import Extensions
    from jetstream_bridge.service.settings import BridgeSettings


@dataclass(frozen=True, slots=True)
class ServiceDefinition:
    """Where a service's code is."""

    settings: str
    consumers: str
    extensions: str | None = None

    @property
    def settings_class(self) -> type[BridgeSettings]:
        found: type[BridgeSettings] = pkgutil.resolve_name(self.settings)
        return found

    def load_consumers(self) -> Consumers:
        """Import the handlers; raises `RegistrationError` where one of them is wrong."""
        load: Callable[[], Consumers] = pkgutil.resolve_name(self.consumers)
        return load()

    def load_extensions(self) -> Extensions:
        """Import what the service adds; raises `RegistrationError` where some of it is wrong."""
        from jetstream_bridge.service.extensions import Extensions

        if self.extensions is None:
            return Extensions()
        found: Extensions = pkgutil.resolve_name(self.extensions)
        return found
