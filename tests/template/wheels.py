"""Builds the wheel of `jetstream_bridge` as `make wheel` does, from this tree or a copy of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.template.baking import ROOT, TEMPLATE, clean_environment


def build_wheel(into: Path, root: Path = ROOT) -> Path:
    """Build the wheel of the repository at `root` into the folder `into` and return it."""
    before = set(into.glob("*.whl"))
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    done = subprocess.run(
        [*command, str(into)],
        cwd=root / "package",
        env=clean_environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = set(into.glob("*.whl")) - before
    return wheel


def copy_package(into: Path) -> Path:
    """Copy what a wheel is built from to `into`; return the package's folder there."""
    shutil.copytree(ROOT / "package", into / "package")
    shutil.copy(ROOT / "LICENSE", into)
    copy = into / TEMPLATE.name / "jetstream_bridge"
    shutil.copytree(TEMPLATE / "jetstream_bridge", copy)
    return copy


def found_in(*folders: Path) -> dict[str, str]:
    """Environment in which pip and uv look into `folders`, beside where they look already."""
    found = {}
    for name, between in (("PIP_FIND_LINKS", " "), ("UV_FIND_LINKS", ",")):
        there = [os.environ[name]] if os.environ.get(name) else []
        found[name] = between.join([*map(str, folders), *there])
    return found
