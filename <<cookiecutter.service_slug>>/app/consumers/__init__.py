"""The service's handlers. Every module in this package is imported and registers its own."""

from __future__ import annotations

import importlib
import pkgutil

from app.bridge import Consumers
from app.consumers.registry import consumers


def load_consumers() -> Consumers:
    """Import all modules here and return what they registered."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return consumers
