"""A service stays small, and so do the package's files and functions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.template.baking import ROOT, clean_environment


def test_no_limit_is_passed() -> None:
    done = subprocess.run(
        [sys.executable, "docs/sizes.py"],
        cwd=ROOT,
        env=clean_environment(PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_team_of_a_service_has_what_was_counted(
    default_service: Path, small_service: Path
) -> None:
    """What the script counts in the template is what a bake leaves."""
    for service, most in ((default_service, 1600), (small_service, 900)):
        files = [
            path
            for name in ("app", "migrations", "tests")
            for path in (service / name).rglob("*.py")
        ]
        assert len(files) <= 30
        assert sum(len(path.read_text("utf-8").splitlines()) for path in files) <= most
