"""Makes a release: `make release VERSION=0.3.0`.

One commit with the version in every place that has it, and one annotated tag with the changes.
Nothing leaves this machine before somebody pushes the tag; the pipeline then publishes the wheel,
and the changes, which `python release.py 0.3.0 --notes` prints. It needs nothing but Python.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Collection
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
    texts = written(version, {name: read(root, name) for name in (*PLACES, CHANGELOG)})
    try:
        for name, text in texts.items():
            (root / name).write_text(text, encoding="utf-8")
        for command in checks:
            check(command, root)
        only(root, texts)
        git(root, "commit", "--quiet", "--message", f"Release {version}", "--", *texts)
    except BaseException:
        git(root, "restore", "--staged", "--worktree", "--", *texts)
        raise
    notes = f"{version}\n\n{changes(texts[CHANGELOG], version)}"
    git(root, "tag", "--annotate", f"v{version}", "--cleanup=verbatim", "--message", notes)
    # Both or neither, and no other tag that lies about here.
    publish = ("push", "--atomic", "origin", "main", f"v{version}")
    if push:
        git(root, *publish)
        return f"v{version} is pushed; the pipeline publishes it"
    return f"v{version} is tagged here; publish it with: git {' '.join(publish)}"


def only(root: Path, texts: Collection[str]) -> None:
    """Refuse what the checks have written beside the version: the tag would not have it."""
    changed = (
        git(root, "diff", "--name-only", "-z"),
        git(root, "ls-files", "-zo", "--exclude-standard"),
    )
    if others := sorted({*"\0".join(changed).split("\0"), ""} - {*texts, ""}):
        raise RefusedError(
            f"the checks have written {', '.join(others)}; look at it, commit it and release again"
        )


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
    changelog, upgrading = read(root, CHANGELOG), read(root, UPGRADING)
    if not unreleased(changelog).strip():
        raise RefusedError(f"{CHANGELOG} has nothing under Unreleased; say what has changed")
    if missing := without_steps(entitled(changelog, version), upgrading):
        raise RefusedError(
            f"{UPGRADING} has no section `## From … to {missing[0]}`, and {CHANGELOG} has changes; "
            "say there what a team has to do, or that it is nothing"
        )


def without_steps(changelog: str, upgrading: str) -> list[str]:
    """Releases that change or remove something, for which no page says what a team has to do."""
    steps = {*re.findall(r"(?m)^## From \S+ to (\S+)$", upgrading)}
    return [
        version
        for version in re.findall(r"(?m)^## \[(\d\S*)\]", changelog)
        if version not in steps
        and re.search(r"(?m)^### (Changed|Removed)$", changes(changelog, version))
    ]


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
    """The section of a release, without its heading."""
    _, found, rest = changelog.partition(f"## [{version}]")
    if not found:
        raise RefusedError(f"{CHANGELOG} has no section `## [{version}] - date`")
    _, _, section = rest.partition("\n")
    return up_to_next(section).strip() + "\n"


def entitled(changelog: str, version: str) -> str:
    """The changelog with what is unreleased under the heading of today's release."""
    heading = f"{NOTHING}\n## [{version}] - {datetime.now(UTC):%Y-%m-%d}\n"
    return changelog.replace(NOTHING, heading, 1)


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
    found[CHANGELOG] = entitled(texts[CHANGELOG], version)
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
    parser.add_argument("--notes", action="store_true", help="print the changes of a release")
    given = parser.parse_args()
    try:
        if given.notes:
            print(changes(read(ROOT, CHANGELOG), given.version), end="")
        else:
            print(release(given.version, checks=CHECKS, push=given.push))
    except (RefusedError, subprocess.TimeoutExpired, OSError) as error:
        sys.exit(f"no release: {error}")


if __name__ == "__main__":
    main()
