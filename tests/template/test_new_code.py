"""`python -m app.cli new` in generated services: what it writes is clean and green at once."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest

from tests.template.test_service_readme import run
from tests.template.test_static import mypy, ruff

# The longest type that is allowed, whose names must fit their lines.
LONGEST = "subscription.a-rather-long-name-of-something-that-was-so"


@pytest.mark.parametrize("kind", ["default_service", "small_service"])
def test_new_code_passes_the_checks_and_its_tests(
    kind: str, mypy_cache: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    service = tmp_path / "service"
    shutil.copytree(request.getfixturevalue(kind), service)
    written: list[str] = []
    for what, event_type in itertools.product(("consumer", "event"), ("invoice.paid", LONGEST)):
        said = run(service, "-m", "app.cli", "new", what, event_type, "--json")
        written += json.loads(said)["written"]

    ruff(service)
    mypy(service, mypy_cache, *written)
    passed = run(service, "-m", "pytest", "-q", "tests/consumers", "tests/events")
    assert "8 passed" in passed
    assert set(written) <= {str(path.relative_to(service)) for path in service.rglob("*.py")}


def test_a_type_of_the_example_is_refused(default_service: Path) -> None:
    for what, named in (("consumer", "customers.py:"), ("event", "app/events/customers.py:")):
        with pytest.raises(AssertionError, match=named):
            run(default_service, "-m", "app.cli", "new", what, "customer.created")
