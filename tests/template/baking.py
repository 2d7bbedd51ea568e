"""Bakes services with the real command, as a user does, and never in the user's home."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "<<cookiecutter.service_slug>>"

_OF_THE_TEST_RUN = ("PYTEST_", "VIRTUAL_ENV", "COOKIECUTTER_", "GIT_", "DATABASE_", "NATS_", "MAKE")


def clean_environment(**changes: str) -> dict[str, str]:
    """The environment of a fresh terminal: nothing of this test run reaches the command."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_OF_THE_TEST_RUN)}
    return kept | changes


def run_generator(
    into: Path,
    *options: str,
    answers: Mapping[str, str | bool] | None = None,
    stdin: str | None = None,
    template: Path = ROOT,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run cookiecutter into the folder `into`; with `stdin` it asks its questions."""
    home = into.parent / f"{into.name}-home"
    home.mkdir(parents=True, exist_ok=True)
    into.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "cookiecutter", str(template), "--output-dir", str(into)]
    if stdin is None:
        command.append("--no-input")
    command += [*options, *(f"{name}={value}" for name, value in (answers or {}).items())]
    return subprocess.run(
        command,
        cwd=into,
        env=clean_environment(**{"HOME": str(home), "PYTHONUTF8": "1", **(environment or {})}),
        input=stdin if stdin is not None else "",
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )


def bake(into: Path, *options: str, **answers: str | bool) -> Path:
    """Bake a service into the folder `into` and return its own folder."""
    before = set(into.glob("*"))
    done = run_generator(into, *options, answers=answers)
    assert done.returncode == 0, done.stdout + done.stderr
    new = set(into.glob("*")) - before
    return new.pop() if new else into / str(answers.get("service_slug", "orders-service"))
