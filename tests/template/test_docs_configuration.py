"""docs/configuration.md says what the code says, and the check of that finds what differs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.template.baking import ROOT, TEMPLATE, clean_environment


def check(root: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "docs/make_configuration.py", "--check"],
        cwd=root,
        env=clean_environment(PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    return done.returncode, done.stderr.strip()


def test_the_page_is_what_the_code_says() -> None:
    assert check(ROOT) == (0, "")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("# MAX_DELIVER=5", "# MAX_DELIVER=6", "MAX_DELIVER is '6' in .env.example, and its defau"),
        ("# BACKOFF=1s,5s,", "# BACKOFF=1s,6s,", "BACKOFF is '1s,6s,15s,30s,60s' in .env.example"),
        ("# UNHANDLED=ack", "", "UNHANDLED is missing in .env.example"),
        (
            "# UNHANDLED=ack",
            "# UNHANDLED=ack\n# FAST=true",
            "FAST is missing in jetstream_bridge/service/settings.py",
        ),
        ("# PRESET=", "# PRESET=\n# LOG_LEVEL=INFO", "a setting is there twice"),
        ("# How long finished rows", "# How long old rows", "is not what the code says: run `make"),
    ],
)
def test_a_difference_is_found(tmp_path: Path, before: str, after: str, said: str) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("make_configuration.py", "configuration.md"):
        shutil.copyfile(ROOT / "docs" / name, tmp_path / "docs" / name)
    service = tmp_path / TEMPLATE.name
    for part in ("app", "jetstream_bridge"):
        shutil.copytree(TEMPLATE / part, service / part)
    text = (TEMPLATE / ".env.example").read_text(encoding="utf-8")
    assert before in text
    (service / ".env.example").write_text(text.replace(before, after), encoding="utf-8")

    status, error = check(tmp_path)
    assert (status, said in error) == (1, True), error
