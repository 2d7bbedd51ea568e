"""Two services, made and set up as a user does, pass their own tests and checks."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.template.baking import bake, clean_environment

SETUP_AND_TEST = 1800.0  # seconds; a guard against what hangs, and no measure of a machine


def make(service: Path, *targets: str, limit: float = SETUP_AND_TEST, **changes: str) -> str:
    """Run make and return what it said; past the limit, end all that it started, and say that.

    `changes` are of the environment.
    """
    environment = clean_environment(**changes)
    # As on a person's machine: what was compiled once is not compiled again for each process.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            ["make", *targets],
            cwd=service,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status: int | str = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status = f"not done after {limit:g} s"
        output.seek(0)
        said = output.read()
    assert status == 0, f"make {' '.join(targets)}: {status}\n{said}"
    return said


@pytest.fixture(scope="module")
def full_service(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The defaults, with an environment of its own."""
    service = bake(tmp_path_factory.mktemp("full"))
    make(service, "setup")
    return service


@pytest.mark.timeout(2 * SETUP_AND_TEST + 20)
def test_the_default_service_passes_its_tests(full_service: Path) -> None:
    assert " passed" in make(full_service, "test")


@pytest.mark.timeout(2 * SETUP_AND_TEST + 20)
def test_the_default_service_passes_its_checks(full_service: Path) -> None:
    make(full_service, "lint")


@pytest.mark.timeout(2 * SETUP_AND_TEST + 20)
def test_the_default_service_passes_on_real_servers(full_service: Path) -> None:
    assert " passed" in make(full_service, "test-real")


def test_setup_is_done_once_until_pyproject_changes(full_service: Path) -> None:
    assert "Setting up" not in make(full_service, "setup")
    project = full_service / "pyproject.toml"
    project.write_text(project.read_text(encoding="utf-8"), encoding="utf-8")
    assert "Setting up" in make(full_service, "--dry-run", "setup")  # test_wheel.py does it


def test_setup_names_the_remedy_when_python_is_too_old(tmp_path: Path) -> None:
    service = bake(tmp_path / "out")
    old = tmp_path / "python3.8"
    old.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    old.chmod(0o755)
    with pytest.raises(AssertionError, match=r"Python 3\.11 or later is needed.*python3\.8"):
        make(service, "setup", f"PYTHON={old}")
    with pytest.raises(AssertionError, match=r"make setup PYTHON=/path/to/python"):
        make(service, "setup", "PYTHON=")


def test_a_model_without_its_migration_is_found(full_service: Path, tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/checked.db"
    said = make(full_service, "check-migrations", DATABASE_URL=url)
    assert "No new upgrade operations detected" in said
    models = full_service / "app/models.py"
    before = models.read_text(encoding="utf-8")
    new = "\n\nclass Note(SQLModel, table=True):\n    id: int = Field(primary_key=True)\n"
    models.write_text(before + new, encoding="utf-8")
    try:
        with pytest.raises(AssertionError, match=r"New upgrade operations detected: .*'note'"):
            make(full_service, "check-migrations", DATABASE_URL=url)
    finally:
        models.write_text(before, encoding="utf-8")
