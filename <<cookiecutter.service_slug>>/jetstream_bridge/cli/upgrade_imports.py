"""Rewrites imports of version 0.1.0: `python -m jetstream_bridge.cli.upgrade_imports`.

A module that has no successor is named with its file and line, and never guessed. It reads files
only and imports nothing of the service, which cannot be imported before.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

FOLDERS = ("app", "migrations", "tests")
MOVED = {
    "app.bridge": "jetstream_bridge",
    "app.bridge.config": "jetstream_bridge.core.config",
    "app.bridge.durations": "jetstream_bridge.core.durations",
    "app.bridge.errors": "jetstream_bridge.core.errors",
    "app.bridge.event": "jetstream_bridge.events.event",
    "app.bridge.middleware": "jetstream_bridge.inbox.middleware",
    "app.bridge.testing": "jetstream_bridge.testing",
    "app.database": "jetstream_bridge.service.database",
    "app.logs": "jetstream_bridge.service.logs",
    "app.problems": "jetstream_bridge.service.problems",
    "app.schema": "jetstream_bridge.service.schema",
    "app.strict": "jetstream_bridge.web.strict",
    "app.telemetry": "jetstream_bridge.service.telemetry",
}
_FROM = re.compile(r"^([ \t]*from )([\w.]+)(?= import )", re.MULTILINE)
_IMPORT = re.compile(r"^[ \t]*(?:from|import) ((?:app|tests)(?:\.\w+)*)(?: import ([\w ,]+))?")
_SQLMODEL = re.compile(r"^from sqlmodel import (?:\(([^)#]*)\)|([\w ,]+))$", re.MULTILINE)


def rewritten(text: str) -> str:
    """The text of a module with the imports of today's layout."""
    text = _FROM.sub(lambda found: found[1] + MOVED.get(found[2], found[2]), text)
    return _SQLMODEL.sub(_split, text) if "table=True" in text else text


def _split(found: re.Match[str]) -> str:
    """Tables take `SQLModel` from the module that names their constraints."""
    names = [name.strip() for name in (found[1] or found[2]).split(",") if name.strip()]
    if "SQLModel" not in names:
        return found[0]
    names.remove("SQLModel")
    others = f"from sqlmodel import {', '.join(names)}\n" if names else ""
    return f"{others}from jetstream_bridge.core.naming import SQLModel"


def unresolved(text: str, root: Path) -> Iterator[tuple[int, str]]:
    """Line and module of each import from `app` or `tests` that the folder `root` does not have."""
    for number, line in enumerate(text.splitlines(), 1):
        if found := _IMPORT.match(line):
            module = str(found[1])
            inside = (found[2] or "").split(",") if module in ("app", "tests") else []
            for name in [f"{module}.{one.split()[0]}" for one in inside if one.split()] or [module]:
                if not _is_there(root / name.replace(".", "/")):
                    yield number, name


def _is_there(path: Path) -> bool:
    """A folder that has nothing but caches left is not."""
    return path.with_suffix(".py").is_file() or any(path.rglob("*.py"))


def upgrade(root: Path, folders: Sequence[str]) -> int:
    """Rewrite the modules below the folders; return how many imports a person has to look at."""
    left = 0
    for path in sorted(path for name in folders for path in (root / name).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if (new := rewritten(text)) != text:
            path.write_text(new, encoding="utf-8")
            print(f"{path.relative_to(root)}: rewritten")
        for number, module in unresolved(new, root):
            left += 1
            print(f"{path.relative_to(root)}:{number}: {module} is not there any more")
    return left


def main(folders: Sequence[str]) -> int:
    root = Path.cwd()
    for name in folders:
        if not (root / name).is_dir():
            print(f"{name} is not a folder of {root}; name folders of the service", file=sys.stderr)
            return 2
    return 1 if upgrade(root, folders) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or FOLDERS))
