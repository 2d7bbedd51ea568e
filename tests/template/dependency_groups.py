"""The dependency groups of a pyproject.toml, with those that they include."""

from __future__ import annotations

import tomllib
from pathlib import Path


def group(project: Path, name: str) -> list[str]:
    """Return every line of a group."""
    groups = tomllib.loads(project.read_text(encoding="utf-8"))["dependency-groups"]

    def lines(one: str) -> list[str]:
        found: list[str] = []
        for entry in groups[one]:
            found += [entry] if isinstance(entry, str) else lines(entry["include-group"])
        return found

    return lines(name)
