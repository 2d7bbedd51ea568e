"""Style and types hold in this repository, in the template where it stands, and in services."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

from tests.template.baking import ROOT, TEMPLATE, clean_environment
from tests.template.dependency_groups import group


def run(folder: Path, *command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=840,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# The caches stay out of the template's folder: another test may be baking it.
def ruff(folder: Path, *targets: str) -> None:
    run(folder, "ruff", "check", "--no-cache", *targets)
    run(folder, "ruff", "format", "--no-cache", "--check", *targets)


def mypy(folder: Path, cache: Path, *targets: str) -> None:
    run(folder, "mypy", "--strict", "--cache-dir", str(cache), *targets)


def test_style_of_the_repository_and_the_template() -> None:
    ruff(ROOT)


def test_types_of_the_repository(mypy_cache: Path) -> None:
    mypy(ROOT, mypy_cache, ".")


def test_types_of_the_template_where_it_stands(mypy_cache: Path) -> None:
    mypy(TEMPLATE, mypy_cache, "app", "jetstream_bridge", "migrations", "tests")


def test_the_packages_layers_hold() -> None:
    program = Path(sysconfig.get_path("scripts")) / "lint-imports"
    done = subprocess.run(
        [program, "--no-cache", ROOT / "pyproject.toml"],
        cwd=TEMPLATE,
        env=clean_environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_style_and_types_of_a_small_service(small_service: Path, mypy_cache: Path) -> None:
    """Those of the default one are tested by its own `make lint`, in an environment of its own."""
    ruff(small_service)
    mypy(small_service, mypy_cache)


def test_the_environment_of_the_repository_has_all_that_a_service_has() -> None:
    def tables(path: Path) -> dict[str, Any]:
        return tomllib.loads(path.read_text(encoding="utf-8"))

    of_a_service = tables(TEMPLATE / "pyproject.toml")  # the lines of either answer to `bridge`
    wanted = {
        *of_a_service["project"]["dependencies"],
        *group(TEMPLATE / "pyproject.toml", "dev"),
    }
    wanted -= {line for line in wanted if line.startswith("jetstream-bridge")}
    assert wanted <= {*tables(ROOT / "pyproject.toml")["project"]["dependencies"]}
