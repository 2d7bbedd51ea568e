"""Every module of a folder is part of the service: a new file needs no line elsewhere."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType

from jetstream_bridge.core.error_report import report
from jetstream_bridge.core.errors import RegistrationError


def import_modules(package: str, path: Iterable[str]) -> list[ModuleType]:
    """Import all modules of `package`, whose `__path__` is `path`, in the order of their names.

    Raises `RegistrationError`, with the line at fault, for a module that cannot be imported.
    """
    return [_imported(package, found.name) for found in pkgutil.iter_modules(path)]


def import_package(package: str) -> list[ModuleType]:
    """Import the package of this name and all modules in it; raises `RegistrationError`."""
    parent, _, name = package.rpartition(".")
    found = _imported(parent, name) if parent else importlib.import_module(name)
    if not hasattr(found, "__path__"):
        raise RegistrationError(f"{package} is one module; make it a folder with a module for each")
    return import_modules(package, found.__path__)


def _imported(package: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{package}.{name}")
    except Exception as error:
        file = f"{package.replace('.', '/')}/{name}.py"
        raise RegistrationError(f"{file} cannot be imported: {report(error)}") from error
