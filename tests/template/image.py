"""Follows a Dockerfile without an engine: its own lines, in a folder that stands for its root.

All stages use one folder one after another, since a virtual environment cannot be moved: what a
later stage does not copy is gone. An absolute path of the Dockerfile is one below that folder.
Images from a registry are stood in for by what PyPI and this machine have of them: `uv`, and a
Python, which is copied where the image's user could not read this machine's.

Whoever is not root builds and runs as themselves; the tree is not writable then either.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.template.server_wheels import install_program

FOLDERS = (
    "/data",
    "/opt",
    "/srv",
    "/usr/local",
    "/uv",
)  # of the image, as the Dockerfile says them
_ABSOLUTE = re.compile(rf"(?<![\w./-])/({'|'.join(name[1:] for name in FOLDERS)})(?![\w.])")
_PASSED_ON = ("HTTP", "HTTPS", "NO_PROXY", "SSL_", "UV_", "http", "no_proxy")
_BUILD_LIMIT = 600.0  # seconds for one RUN, which may fetch packages


@dataclass(frozen=True, slots=True)
class Line:
    """One instruction, its continuations joined."""

    word: str
    rest: str

    @property
    def flags(self) -> dict[str, str]:
        found = re.findall(r"^((?:--\S+\s+)*)", self.rest)[0].split()
        return dict(flag[2:].split("=", 1) for flag in found)

    @property
    def body(self) -> str:
        """Without the flags at its beginning."""
        return re.sub(r"^(--\S+\s+)*", "", self.rest)


def read_dockerfile(path: Path) -> list[Line]:
    lines = path.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", "", text).split("\n")
    return [Line(*line.split(None, 1)) for line in joined if line.strip()]


@dataclass
class Image:
    """What was built: the folder of its root, and what its last stage says of how it runs."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)

    def here(self, text: str) -> str:
        """`text` with the image's absolute paths as they are on this machine."""
        return _ABSOLUTE.sub(rf"{self.root}/\1", text)

    def folder(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        """Start `command` as the image's user, with nothing in its environment but what is said."""
        uid, gid = (int(number) for number in self.user.split(":"))
        who: dict[str, Any] = (
            {"user": uid, "group": gid, "extra_groups": []} if os.getuid() == 0 else {}
        )
        variables = {"HOME": "/", **self.environment, **environment}
        program = shutil.which(command[0], path=variables["PATH"])
        assert program is not None, f"the image has no {command[0]}"
        with log.open("ab") as output:
            return subprocess.Popen(
                [program, *command[1:]],
                cwd=self.folder(self.workdir),
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                **who,
            )

    def files(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*")}


def build(service: Path, root: Path) -> Image:
    """Follow the Dockerfile of `service`; `root` is a folder that everybody may read."""
    return _Builder(service, root).build()


class _Builder:
    def __init__(self, service: Path, root: Path) -> None:
        self._service = service
        self._root = root
        self._stages: dict[str, str] = {}  # what each one is made from
        self._left: dict[str, Path] = {}  # the root of each one that was built
        self._stage = ""
        self._image = Image(root)

    def build(self) -> Image:
        for line in read_dockerfile(self._service / "Dockerfile"):
            getattr(self, f"_{line.word.lower()}")(line)
        for path in (self._root, *self._root.rglob("*")):
            if not path.is_symlink() and not path.is_relative_to(self._root / "data"):
                path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)
        return self._image

    def _from(self, line: Line) -> None:
        base, *name = line.rest.split(" AS ")
        self._leave()
        self._stage = name[0] if name else ""
        self._stages[self._stage] = self._stages.get(base, base)
        self._image = Image(self._root)
        image, _, version = self._stages[self._stage].partition(":")
        self._lay_base(image, version)

    def _leave(self) -> None:
        """Put the files of the stage that ends here aside."""
        if self._stages:
            self._left[self._stage] = self._root.with_name(f"{self._root.name}-{self._stage}")
            self._root.rename(self._left[self._stage])
        self._root.mkdir(mode=0o755, exist_ok=True)

    def _lay_base(self, image: str, version: str) -> None:
        match image:
            case "ghcr.io/astral-sh/uv":
                tools = self._root.with_name(f"{self._root.name}-wheels")
                shutil.copy(install_program("uv", f"uv=={version}", tools), self._root / "uv")
            case "python":
                folder = self._root / "usr/local/bin"
                folder.mkdir(parents=True)
                program = _readable_python(self._root / "usr/local")
                (folder / "python").symlink_to(program)
                self._image.environment["PATH"] = f"{folder}:/usr/bin:/bin"
                if program.parent == folder:
                    self._image.environment["LD_LIBRARY_PATH"] = str(folder.parent / "lib")
            case _:
                raise AssertionError(f"nothing stands in for the image {image}")

    def _workdir(self, line: Line) -> None:
        self._image.workdir = line.rest
        self._image.folder(line.rest).mkdir(parents=True, exist_ok=True)

    def _env(self, line: Line) -> None:
        for setting in shlex.split(line.rest):
            name, value = setting.split("=", 1)
            value = value.replace("$PATH", self._image.environment["PATH"])
            self._image.environment[name] = self._image.here(value)

    def _copy(self, line: Line) -> None:
        *sources, target = line.body.split()
        into = self._image.folder(str(Path(self._image.workdir) / target))
        if "from" in line.flags:
            (source,) = sources
            found = self._left[line.flags["from"]] / source.lstrip("/")
            _copy(found, into)
            return
        context = list(_context(self._service))
        copied = 0
        for source in sources:
            for file in context:
                name = _name_within(source, file.relative_to(self._service))
                if name is not None:
                    _copy(file, into / name)
                    copied += 1
        assert copied, line

    def _run(self, line: Line) -> None:
        script = self._image.here(line.body)
        if os.getuid() != 0:
            script = script.replace("10001", str(os.getuid()))
        kept = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
        done = subprocess.run(
            ["/bin/sh", "-c", script],
            cwd=self._image.folder(self._image.workdir),
            env={
                "HOME": str(self._root.parent),
                **kept,
                **package_index(),
                **self._image.environment,
            },
            capture_output=True,
            encoding="utf-8",
            timeout=_BUILD_LIMIT,
            check=False,
        )
        assert done.returncode == 0, f"RUN {script}\n{done.stdout}{done.stderr}"

    def _user(self, line: Line) -> None:
        self._image.user = line.rest

    def _expose(self, line: Line) -> None:
        """A note for people."""

    def _healthcheck(self, line: Line) -> None:
        self._image.healthcheck = json.loads(line.body.removeprefix("CMD "))

    def _cmd(self, line: Line) -> None:
        self._image.command = json.loads(line.rest)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def _name_within(source: str, file: Path) -> Path | None:
    """Where `COPY source` puts a file of the context below its target; None where it does not."""
    if source == ".":
        return file
    if fnmatch.fnmatchcase(str(file), source):
        return Path(file.name)
    return file.relative_to(source) if file.is_relative_to(source) else None


def _context(service: Path) -> Iterator[Path]:
    """The files that `.dockerignore` leaves."""
    lines = (service / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    for path in sorted(service.rglob("*")):
        if path.is_file() and not _ignored(str(path.relative_to(service)), patterns):
            yield path


def _ignored(name: str, patterns: Sequence[str]) -> bool:
    """By the last pattern that fits the path or a folder above it, as Docker decides."""
    above = [name, *map(str, Path(name).parents)][:-1]
    ignored = False
    for pattern in patterns:
        glob = pattern.removeprefix("!")
        fits = any(
            fnmatch.fnmatchcase(f"/{one}", f"*/{glob[3:]}")
            if glob.startswith("**/")
            else "/" not in one and fnmatch.fnmatchcase(one, glob)
            for one in above
        )
        if fits:
            ignored = not pattern.startswith("!")
    return ignored


def _readable_python(place: Path) -> Path:
    """This machine's Python, or a copy of it in `place` where another user could not run it."""
    program = Path(sys.executable).resolve()
    if all(folder.stat().st_mode & stat.S_IXOTH for folder in program.parents):
        return program
    library = Path(sysconfig.get_path("stdlib"))
    left_out = shutil.ignore_patterns("site-packages", "test", "__pycache__", "config-*")
    shutil.copytree(library, place / "lib" / library.name, symlinks=True, ignore=left_out)
    for shared in Path(sys.base_prefix, "lib").glob("libpython*.so*"):
        shutil.copy2(shared, place / "lib", follow_symlinks=False)
    return Path(shutil.copy2(program, place / "bin"))


def package_index() -> dict[str, str]:
    """pip's package index for uv, which does not read pip's configuration."""
    named, certificate = _of_pip("index-url"), _of_pip("cert")
    return ({"UV_DEFAULT_INDEX": named} if named else {}) | (
        {"SSL_CERT_FILE": certificate} if certificate else {}
    )


def _of_pip(name: str) -> str | None:
    """Return a setting of pip's, from its environment or else its files.

    `pip config get` knows the last file only.
    """
    asked = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True)
    settings = dict(re.findall(r"^(\S+)='(.*)'$", done.stdout, re.MULTILINE))
    return settings.get(f":env:.{name}") or settings.get(f"global.{name}")
