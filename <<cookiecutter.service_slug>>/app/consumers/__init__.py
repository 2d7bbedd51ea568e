"""The service's handlers. Every module in this package is imported and registers its own."""

from __future__ import annotations

import importlib
import pkgutil

from app.consumers.registry import consumers
from jetstream_bridge import Consumers
from jetstream_bridge.core.error_report import report
from jetstream_bridge.core.errors import RegistrationError


def load_consumers() -> Consumers:
    """Import all modules here and return what they registered.

    Raises `RegistrationError`, with the line at fault, for a module that cannot be imported.
    """
    for module in pkgutil.iter_modules(__path__):
        try:
            importlib.import_module(f"{__name__}.{module.name}")
        except Exception as error:
            raise RegistrationError(
                f"app/consumers/{module.name}.py cannot be imported: {report(error)}"
            ) from error
    return consumers
