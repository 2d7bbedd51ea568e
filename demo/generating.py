"""Generates a service with the real command, as a user does, and adds files to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from demo import ROOT

_LIMIT = 60.0  # seconds
_KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH")

PARTS = Path(__file__).with_name("parts")
# What is added to the services, by its place in them: something to count effects with.
MARKS = {
    "app/routers/marks.py": PARTS / "marks_router.py",
    "app/consumers/marks.py": PARTS / "marks_consumer.py",
    "migrations/versions/0003_marks.py": PARTS / "marks_migration.py",
}


class NotGeneratedError(Exception):
    """The generator refused, or failed; the message is what it said."""


def clean_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Only `settings`, and what any process needs: no setting of this terminal's reaches it."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | dict(settings)


def generate(into: Path, *, name: str, peer: str, database: str, parts: Mapping[str, Path]) -> Path:
    """Generate the service `name` in the folder `into`; return the service's own folder."""
    home = into / f".{name}-home"  # where cookiecutter remembers answers
    home.mkdir(parents=True)
    answers = {
        "service_name": name.capitalize(),
        "service_slug": name,
        "destination_app": peer,
        "database": database,
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "cookiecutter", str(ROOT), "--no-input"),
            *("--output-dir", str(into)),
            *(f"{question}={answer}" for question, answer in answers.items()),
        ],
        env=clean_environment({"HOME": str(home)}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=_LIMIT,
        check=False,
    )
    shutil.rmtree(home)
    if done.returncode != 0:
        raise NotGeneratedError(f"{name} was not generated: {done.stdout.strip()}")
    for place, source in parts.items():
        shutil.copyfile(source, into / name / place)
    return into / name
