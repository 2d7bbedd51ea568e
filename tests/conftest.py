"""Services that several tests look at and none changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from baking import bake


@pytest.fixture(scope="session")
def default_service(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bake(tmp_path_factory.mktemp("default"))


@pytest.fixture(scope="session")
def small_service(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SQLite, no example, no pipeline, no deployment."""
    return bake(
        tmp_path_factory.mktemp("small"),
        service_name="Small Service",
        database="sqlite",
        include_example=False,
        deployment="none",
        ci="none",
        license="Proprietary",
    )
