"""Every module in this package that has a `router` is part of the API."""

from __future__ import annotations

import importlib
import pkgutil

from fastapi import APIRouter


def routers() -> list[APIRouter]:
    """The routers of all modules here, in the order of the modules' names."""
    modules = (
        importlib.import_module(f"{__name__}.{module.name}")
        for module in pkgutil.iter_modules(__path__)
    )
    return [module.router for module in modules if hasattr(module, "router")]
