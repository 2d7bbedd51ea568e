"""Whose tests these are: where the service's code is, its settings, and what it adds."""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from jetstream_bridge.service.extensions import Extensions
from jetstream_bridge.service.settings import BridgeSettings
from jetstream_bridge.service.settings_loading import read_settings
from jetstream_bridge.testing.server import MockServer

ADMIN_TOKEN = "a-token-of-enough-length"


@dataclass(frozen=True, slots=True)
class ServiceCode:
    """Where a service's code is; each name is `module:attribute`."""

    settings: str = "app.settings:Settings"
    consumers: str = "app.consumers:load_consumers"
    app: str = "app.main:create_app"
    extensions: str | None = "app.extensions:extensions"


@pytest.fixture(scope="session")
def service_code() -> ServiceCode:
    """Where the code under test is."""
    return ServiceCode()


@pytest.fixture(scope="session")
def service_values() -> dict[str, Any]:
    """Settings of the service under test beside those of `service.toml`."""
    return {}


@pytest.fixture(scope="session")
def base_settings(service_code: ServiceCode, service_values: dict[str, Any]) -> BridgeSettings:
    """The service's settings, read once: without `.env`, and without what this machine sets."""
    cls: type[BridgeSettings] = pkgutil.resolve_name(service_code.settings)
    values: dict[str, Any] = {
        "nats_env": "test",
        "database_url": "sqlite+aiosqlite:///unused.sqlite3",
        "nats_urls": MockServer().url,
        "admin_token": ADMIN_TOKEN,
    }
    with _without_settings(cls):
        return read_settings(cls, **values | service_values, _env_file=None)


@contextmanager
def _without_settings(cls: type[BridgeSettings]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.lower() in cls.model_fields:
                patch.delenv(name)
        yield


@pytest.fixture
def extensions(service_code: ServiceCode) -> Iterator[Extensions]:
    """What the service adds; `extensions.overrides[Type] = fake` counts for this test."""
    if service_code.extensions is None:
        yield Extensions()
        return
    found: Extensions = pkgutil.resolve_name(service_code.extensions)
    before = dict(found.overrides)
    yield found
    found.overrides.clear()
    found.overrides.update(before)
