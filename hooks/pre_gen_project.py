"""Before the bake: what a service has of its team's is put aside, for a bake over the top.

It runs in the service's folder, which is empty unless the service is baked over itself. What is put
aside, hooks/post_gen_project.py gives back.
"""

from __future__ import annotations

import shutil
from pathlib import Path

TEAMS = ("app", "migrations", "tests")
ASIDE = ".before-the-bake"
OLD_LAYOUT = "app/bridge"  # of version 0.1.0, whose files are replaced by steps of a document


def put_aside(service: Path) -> None:
    if (service / OLD_LAYOUT).is_dir():
        return
    aside = service / ASIDE
    if aside.exists():
        raise SystemExit(
            f"{aside} is left of a bake that was cut off and holds the team's files as they were; "
            "put them back where they are missing, and remove that folder"
        )
    for name in TEAMS:
        if (service / name).is_dir():
            caches = shutil.ignore_patterns("__pycache__", ".pytest_cache", ".hypothesis")
            shutil.copytree(service / name, aside / name, symlinks=True, ignore=caches)


if __name__ == "__main__":
    put_aside(Path.cwd())
