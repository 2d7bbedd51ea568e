"""The fixtures are those of the service's tests."""

from tests.service.conftest import (
    _nothing_from_outside,
    app,
    client,
    commands,
    database,
    make_settings,
    migrated_url,
)

__all__ = [
    "_nothing_from_outside",
    "app",
    "client",
    "commands",
    "database",
    "make_settings",
    "migrated_url",
]
