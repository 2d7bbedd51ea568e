"""The contract of mock and server holds on every nats-server that services may meet."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO

import pytest

from tests.template.baking import ROOT, clean_environment
from tests.template.server_wheels import install_server

# One of each series still in use; the newest is the one that everything else runs on.
VERSIONS = ("2.10.26", "2.11.11", "2.12.8", "2.14.6")
_CONTRACT = (sys.executable, "-m", "pytest", "-q", "-m", "real", "tests/contract")
_OPTIONS = ("-p", "no:cacheprovider")
LIMIT = 900.0  # seconds for one version, with the others beside it; a guard against what hangs


@dataclass
class Run:
    """The contract's tests on one version, under way."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]

    def said(self) -> str:
        self.output.seek(0)
        return self.output.read().decode()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """All versions side by side: they spend their time waiting."""
    started: dict[str, Run] = {}
    with ExitStack() as stack:
        for version in VERSIONS:
            folder = tmp_path_factory.mktemp(f"nats-{version}")
            server = install_server(version, folder)
            output = stack.enter_context((folder / "output").open("w+b"))
            process = subprocess.Popen(
                [*_CONTRACT, *_OPTIONS, f"--basetemp={folder / 'tmp'}"],
                cwd=ROOT,
                env=clean_environment(NATS_SERVER=str(server)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            started[version] = Run(process, output)
        yield started


@pytest.mark.timeout(LIMIT + 60)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_contract_holds_on(version: str, runs: dict[str, Run]) -> None:
    run = runs[version]
    assert run.process.wait(LIMIT) == 0, run.said()
    assert " passed" in run.said()
