"""The version of a service: what its pyproject.toml says."""

from __future__ import annotations

import tomllib
from pathlib import Path

UNKNOWN = "unknown"


def service_version(root: Path) -> str:
    """Return the version in `root`'s pyproject.toml, or `unknown` where that file is not."""
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return str(project["version"])
    except (OSError, ValueError, KeyError):
        return UNKNOWN
