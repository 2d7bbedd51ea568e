"""Services that several tests look at and none changes, and the order of the files.

`make test` gives whole files to two processes, since a file's tests share what takes long to make.
What takes longest begins first, so that no process is left with it at the end.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.template.baking import bake

_LONGEST = (
    "test_two_services",
    "test_wheel",
    "test_image",
    "test_mutations",
    "test_generated_suites",
    "test_chaos",
    "test_crash_matrix",
    "test_upgrading",
    "test_server_versions",
    "test_docs_commands",
    "test_lost_servers",
    "test_docs_growing",
    "test_bake_matrix",
    "test_new_code",
    "test_static",
    "test_rebaking",
    "test_suite_without_example",
    "test_demo",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(_LONGEST)))


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


@pytest.fixture(scope="session")
def mypy_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mypy knows of the packages that all services have: most of its time goes there.

    A service's own files have the same names in each; mypy looks at their times and contents.
    """
    return tmp_path_factory.mktemp("mypy")
