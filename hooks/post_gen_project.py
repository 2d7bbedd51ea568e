"""After the bake: the service keeps only what was chosen, and is ready to use.

It runs in the new service's folder. It never touches what the user already had there (`.env`, a
virtual environment, a repository), and never needs the network.
"""

from __future__ import annotations

import io
import json
import os
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

# A path stays only with one of the answers beside it. A folder whose name begins with `_` is an
# overlay: with the answer its files take their places in the service, without it they go; the
# folder itself always goes.
PARTS: tuple[tuple[str, str | tuple[str, ...], str], ...] = (
    ("bridge", "vendored", "jetstream_bridge"),
    ("bridge", "vendored", ".gitattributes"),
    ("bridge", "installed", "wheels"),
    ("deployment", ("kubernetes", "compose"), "Dockerfile"),
    ("deployment", ("kubernetes", "compose"), ".dockerignore"),
    ("deployment", ("kubernetes", "compose"), "compose.yaml"),
    ("deployment", ("kubernetes", "compose"), "compose.two-services.yaml"),
    ("deployment", "kubernetes", "deploy/kubernetes"),
    ("ci", ("github", "gitlab"), "renovate.json"),
    ("ci", "github", ".github"),
    ("ci", "gitlab", ".gitlab-ci.yml"),
    ("license", "MIT", "_license_mit"),
    ("license", "Apache-2.0", "_license_apache"),
    ("license", "Proprietary", "_license_proprietary"),
)

CACHES = frozenset(
    {
        "__pycache__",
        ".pytest_cache",
        ".mypy_cache",
        ".ruff_cache",
        ".hypothesis",
        ".screenshots",
    }
)
# Of version 0.1.0, when a service of that time is baked over: they belong to no service any more.
OLD_LAYOUT = (
    "app/bridge",
    "app/commands",
    "app/console",
    "app/routers/admin",
    "app/database.py",
    "app/events.py",
)
ASIDE = ".before-the-bake"  # as hooks/pre_gen_project.py calls it
BESIDE = ".from-the-template"
KEPT = frozenset({".git", ".venv"})  # of the user, when a service is baked over itself
GIT_TIMEOUT = 10.0  # seconds


def finish(service: Path, answers: Mapping[str, object]) -> None:
    if not is_yes(answers["include_example"]):
        remove_example(service)
    keep_what_was_chosen(service, answers)
    remove_caches(service)
    give_back(service)
    write_env(service)
    if "_commit" in answers:
        # cruft: its scratch folders are compared file by file, and a repository inside one of
        # them destroys the update.
        return
    init_repository(service)
    name_leftovers(service)
    print_next_steps(service)


def is_yes(answer: object) -> bool:
    """Whether a yes-or-no was answered with yes; the rule for it allows these words only."""
    return str(answer).lower() in ("true", "yes", "y", "on", "1", "t")


def keep_what_was_chosen(service: Path, answers: Mapping[str, object]) -> None:
    for question, wanted, name in PARTS:
        path = service / name
        chosen = is_chosen(answers[question], wanted)
        if name.startswith("_"):
            if chosen:
                lay_over(path, service)
            remove(path)
        elif not chosen:
            remove(path)


def remove_example(service: Path) -> None:
    """Do what `python -m app.cli example remove` does, with the package's own code for it."""
    of_package = runpy.run_path(str(service / "jetstream_bridge/cli/example_files.py"))
    of_package["plan"](service).apply(service)


def is_chosen(answer: object, wanted: str | tuple[str, ...]) -> bool:
    return answer in wanted if isinstance(wanted, tuple) else answer == wanted


def lay_over(overlay: Path, service: Path) -> None:
    """Put every file of the overlay in its place, over the one that is there."""
    for source in sorted(path for path in overlay.rglob("*") if path.is_file()):
        target = service / source.relative_to(overlay)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def give_back(service: Path) -> None:
    """Put the team's files, which hooks/pre_gen_project.py put aside, over what the bake wrote.

    Where the template's own differs it stays beside, to be compared.
    """
    aside, beside = service / ASIDE, service / BESIDE
    if not aside.exists():
        return
    remove(beside)
    different = []
    for kept in sorted(path for path in aside.rglob("*") if path.is_file() or path.is_symlink()):
        name = kept.relative_to(aside)
        baked = service / name
        if baked.is_file() and baked.read_bytes() != kept.read_bytes():
            different.append(str(name))
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(baked, beside / name)
        baked.parent.mkdir(parents=True, exist_ok=True)
        os.replace(kept, baked)
    remove(aside)
    if different:
        print(
            f"Kept as they are, since they are the team's: {', '.join(different)}. The template's "
            f"are in {BESIDE}/: compare them (diff -ru {BESIDE}/app app), then delete that folder",
            file=sys.stderr,
        )


def remove_caches(service: Path) -> None:
    for path in list(caches(service)):
        remove(path)


def caches(service: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(service):
        yield from (Path(root, name) for name in folders if name in CACHES)
        yield from (Path(root, name) for name in files if name.endswith(".pyc"))
        folders[:] = [name for name in folders if name not in CACHES | KEPT]


def write_env(service: Path) -> None:
    """Give the service its `.env`, unless there is one: it may hold secrets and changes."""
    env = service / ".env"
    if not env.exists():
        shutil.copyfile(service / ".env.example", env)
        env.chmod(0o600)


def init_repository(service: Path) -> None:
    """`git init`, where no repository is around the service. Without git there is none."""
    if any((folder / ".git").exists() for folder in (service, *service.parents)):
        return
    # Inside a git hook these variables name another repository, and `init` would obey them.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-c", "init.defaultBranch=main", "init", "--quiet"]
    try:
        subprocess.run(
            command,
            cwd=service,
            env=environment,
            check=True,
            timeout=GIT_TIMEOUT,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    except subprocess.CalledProcessError as error:
        print(f"No git repository was made: {error.stderr.strip()}", file=sys.stderr)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"No git repository was made: {error}", file=sys.stderr)


def name_leftovers(service: Path) -> None:
    """Name what the layout of 0.1.0 left; it may hold edits of the team, so it stays."""
    left = [name for name in OLD_LAYOUT if is_left(service / name)]
    if left:
        print(
            f"The layout of version 0.1.0 has left {', '.join(left)}: delete what "
            "docs/upgrading.md of the template lists, 'By baking over a service of 0.1.0'",
            file=sys.stderr,
        )


def is_left(path: Path) -> bool:
    """Whether there is code; a folder of Python's caches only is none."""
    return path.is_file() or any(path.rglob("*.py"))


def print_next_steps(service: Path) -> None:
    print(f"cd {shlex.quote(str(service))}")
    print("make test   # its tests; no server needed")
    print("make run    # the API and the worker on this terminal, with the servers they need")
    print("README.md   # how to publish an event, and how to handle one")


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the folder's path may not fit the terminal
    # The quotes are part of the safety: tojson escapes single ones, so no answer can end the text.
    finish(Path.cwd(), json.loads(r'<< cookiecutter | tojson >>'))  # fmt: skip
