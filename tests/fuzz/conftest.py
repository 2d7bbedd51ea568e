"""The API asked anything at all: among the tests with real servers (`make test-real`)."""

from __future__ import annotations

from pathlib import Path

import pytest

_HERE = Path(__file__).parent


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Reading the API's document takes a second, which a run without these tests can spare."""
    return True if config.option.markexpr == "not real" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.real)
