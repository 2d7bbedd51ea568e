"""The names that a package offers, each imported when it is asked for.

So a command that needs little starts quickly, and importing one name brings no other.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def on_demand(package: str, names: Mapping[str, Iterable[str]]) -> Callable[[str], Any]:
    """Return the `__getattr__` of `package`, whose `names` are given by the module they are in."""
    where = {name: module for module, of_it in names.items() for name in of_it}

    def find(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(where[name]), name)
        setattr(sys.modules[package], name, found)  # so that it is looked for once
        return found

    return find
