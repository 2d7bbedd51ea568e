"""The service's handlers. Every module in this package is imported and registers its own."""

from __future__ import annotations

from app.consumers.registry import consumers
from jetstream_bridge import Consumers
from jetstream_bridge.service import import_modules


def load_consumers() -> Consumers:
    """Import all modules here and return what they registered.

    Raises `RegistrationError`, with the line at fault, for a module that cannot be imported.
    """
    import_modules(__name__, __path__)
    return consumers
