"""Settings, database, logs, health and the life of a process; below is what a team imports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jetstream_bridge.core.public_names import on_demand

if TYPE_CHECKING:
    from jetstream_bridge.service.database import Database, engine_for
    from jetstream_bridge.service.dev import run_dev
    from jetstream_bridge.service.extensions import Extensions
    from jetstream_bridge.service.logs import log_handler
    from jetstream_bridge.service.modules import import_modules
    from jetstream_bridge.service.settings import BridgeSettings
    from jetstream_bridge.service.settings_loading import load_settings, read_settings
    from jetstream_bridge.service.start_checks import prepare_process

__all__ = [
    "BridgeSettings",
    "Database",
    "Extensions",
    "engine_for",
    "import_modules",
    "load_settings",
    "log_handler",
    "prepare_process",
    "read_settings",
    "run_dev",
]

__getattr__ = on_demand(
    __name__,
    {
        "jetstream_bridge.service.database": (
            "Database",
            "engine_for",
        ),
        "jetstream_bridge.service.dev": ("run_dev",),
        "jetstream_bridge.service.extensions": ("Extensions",),
        "jetstream_bridge.service.logs": ("log_handler",),
        "jetstream_bridge.service.modules": ("import_modules",),
        "jetstream_bridge.service.settings": ("BridgeSettings",),
        "jetstream_bridge.service.settings_loading": ("load_settings", "read_settings"),
        "jetstream_bridge.service.start_checks": ("prepare_process",),
    },
)
