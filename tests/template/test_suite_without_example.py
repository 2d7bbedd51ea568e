"""A service with other answers passes its tests, set up as a user does, in a folder with spaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.template.baking import bake
from tests.template.test_generated_suites import SETUP_AND_TEST, make

HARD_TO_WRITE = (
    "Quotes \" and ', a \\ back\\slash, {{ braces }}, << angles >>, é and 🚀\nin two lines"
)

# What the choice of an example changes in a service's code and tests.
OF_THE_EXAMPLE = {
    "app/consumers/customers.py",
    "app/events/customers.py",
    "app/models.py",
    "app/routers/customers.py",
    "app/service.toml",
    "tests/test_customers.py",
}


def _contents(service: Path) -> dict[str, bytes]:
    """The service's code and tests, without what Python makes of them."""
    return {
        path.relative_to(service).as_posix(): path.read_bytes()
        for folder in ("app", "jetstream_bridge", "tests")
        for path in (service / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


@pytest.mark.timeout(2 * SETUP_AND_TEST + 20)
def test_a_service_on_sqlite_without_the_example_passes_its_tests(
    default_service: Path, tmp_path: Path
) -> None:
    """And its package is the same bytes as in the default service, whatever was answered."""
    service = bake(
        tmp_path / "a folder with spaces",
        database="sqlite",
        include_example=False,
        description=HARD_TO_WRITE,
        author=HARD_TO_WRITE,
        license="Proprietary",
        ci="none",
    )
    here, there = _contents(service).items(), _contents(default_service).items()
    assert {name for name, _ in here ^ there} == OF_THE_EXAMPLE
    assert " passed" in make(service, "test")
