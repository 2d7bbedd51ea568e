"""Makes a release: `make release VERSION=0.3.0`.

One commit with the version in every place that has it, and one annotated tag with the changes.
Nothing leaves this machine before somebody pushes the tag; the pipeline then publishes the wheel.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent
SERVICE = "<<cookiecutter.service_slug>>"
PACKAGE = f"{SERVICE}/jetstream_bridge/__init__.py"
CHANGELOG = "CHANGELOG.md"
UPGRADING = f"{SERVICE}/docs/upgrading.md"
NOTHING = "## [Unreleased]\n"
CHECKS = ("make lint", "make test", "make docs", "make wheel")
LIMIT = 3600.0  # seconds for one of the checks

# Where the version stands, and how. A test holds that there is no other place.
PLACES: dict[str, tuple[str, str]] = {
    PACKAGE: (r'__version__ = "[\d.]+"', '__version__ = "{version}"'),
    "pyproject.toml": (r'(?m)^version = "[\d.]+"', 'version = "{version}"'),
    f"{SERVICE}/pyproject.toml": (RANGE := r"jetstream-bridge>=[\d.]+,<[\d.]+", "{range}"),
    UPGRADING: (RANGE, "{range}"),
}


class RefusedError(Exception):
    """The release cannot be made; the text says why, and what would help."""


def release(version: str, *, checks: tuple[str, ...], push: bool, root: Path = ROOT) -> str:
    """Check, write, commit and tag; return what to do next. Raises `RefusedError`."""
    look(version, root)
    before = {name: read(root, name) for name in (*PLACES, CHANGELOG)}
    texts = written(version, before)
    for name, text in texts.items():
        (root / name).write_text(text, encoding="utf-8")
    try:
        for command in checks:
            check(command, root)
    except BaseException:
        for name, text in before.items():
            (root / name).write_text(text, encoding="utf-8")
        raise
    git(root, "add", "--", *texts)
    git(root, "commit", "--quiet", "--message", f"Release {version}")
    notes = changes(texts[CHANGELOG], version)
    git(root, "tag", "--annotate", f"v{version}", "--cleanup=verbatim", "--message", notes)
    if push:
        git(root, "push", "--follow-tags", "origin", "main")
        return f"v{version} is pushed; the pipeline publishes it"
    return f"v{version} is tagged here; publish it with: git push --follow-tags origin main"


def look(version: str, root: Path) -> None:
    """Refuse what cannot become a release, before anything is written."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise RefusedError(f"{version!r} is no version; write one like 0.3.0")
    branch = git(root, "branch", "--show-current")
    if branch != "main":
        raise RefusedError(f"this is the branch {branch!r}; a release is made of main")
    if changed := git(root, "status", "--porcelain"):
        raise RefusedError(f"there are changes that are not committed:\n{changed}")
    tags = git(root, "tag", "--list", "v*").split()
    if f"v{version}" in tags:
        raise RefusedError(f"v{version} is released already; take the next version")
    newest = max((numbers(tag.removeprefix("v")) for tag in tags), default=(0, 0, 0))
    if numbers(version) <= newest:
        raise RefusedError(f"{version} is not above {'.'.join(map(str, newest))}, the newest tag")
    if not unreleased(read(root, CHANGELOG)).strip():
        raise RefusedError(f"{CHANGELOG} has nothing under Unreleased; say what has changed")
    if "### Changed" in unreleased(read(root, CHANGELOG)) and not has_steps(version, root):
        raise RefusedError(
            f"{UPGRADING} has no section `## From … to {version}`, and {CHANGELOG} has changes; "
            "say there what a team has to do, or that it is nothing"
        )


def has_steps(version: str, root: Path) -> bool:
    heading = rf"(?m)^## From \S+ to {re.escape(version)}$"
    return re.search(heading, read(root, UPGRADING)) is not None


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def unreleased(changelog: str) -> str:
    """What stands below the heading `Unreleased`, up to the next release."""
    _, found, rest = changelog.partition(NOTHING)
    if not found:
        raise RefusedError(f"{CHANGELOG} has no heading {NOTHING.strip()!r}")
    return up_to_next(rest)


def up_to_next(text: str) -> str:
    return re.split(r"(?m)^## \[", text, maxsplit=1)[0]


def changes(changelog: str, version: str) -> str:
    """The section of a release, whose first line becomes the tag's."""
    section = changelog.partition(f"## [{version}]")[2].partition("\n")[2]
    return f"{version}\n\n{up_to_next(section).strip()}\n"


def written(version: str, texts: dict[str, str]) -> dict[str, str]:
    """The files with the version in them; raises `RefusedError` where a place has gone."""
    major, minor, _ = numbers(version)
    above = f"{major}.{minor + 1}"
    found = {}
    for name, (pattern, form) in PLACES.items():
        new = form.format(version=version, range=f"jetstream-bridge>={version},<{above}")
        found[name], count = re.subn(pattern, new, texts[name])
        if count == 0:
            raise RefusedError(
                f"{name} has no version ({pattern}); release.py says where it stands"
            )
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    heading = f"{NOTHING}\n## [{version}] - {today}\n"
    found[CHANGELOG] = texts[CHANGELOG].replace(NOTHING, heading, 1)
    return found


def read(root: Path, name: str) -> str:
    return (root / name).read_text(encoding="utf-8")


def check(command: str, root: Path) -> None:
    print(f"$ {command}", flush=True)
    done = subprocess.run(shlex.split(command), cwd=root, timeout=LIMIT, check=False)
    if done.returncode != 0:
        raise RefusedError(f"{command} ended with status {done.returncode}; nothing was released")


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode != 0:
        raise RefusedError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(prog="make release", description=__doc__)
    parser.add_argument("version", help="like 0.3.0; the tag is v0.3.0")
    parser.add_argument("--push", action="store_true", help="push commit and tag")
    given = parser.parse_args()
    try:
        print(release(given.version, checks=CHECKS, push=given.push))
    except (RefusedError, subprocess.TimeoutExpired, OSError) as error:
        sys.exit(f"no release: {error}")


if __name__ == "__main__":
    main()
