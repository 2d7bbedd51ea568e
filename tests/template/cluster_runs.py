"""Runs of `chaos.cluster` on several versions of nats-server, side by side."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.template.baking import ROOT, clean_environment
from tests.template.server_wheels import install_server

# The oldest that services may meet, and the one that everything else runs on.
VERSIONS = ("2.10.26", "newest")


@contextmanager
def started(folder: Path) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A run on each version; what still runs at the end is told to stop its servers and end."""
    with ExitStack() as stack:
        runs = {}
        for version in VERSIONS:
            process = subprocess.Popen(
                [sys.executable, "-m", "chaos.cluster", *_server(version, folder / version)],
                cwd=ROOT,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            )
            stack.enter_context(process)
            stack.callback(process.terminate)
            runs[version] = process
        yield runs


def _server(version: str, folder: Path) -> list[str]:
    if version == "newest":
        return []
    return ["--server", str(install_server(version, folder))]
