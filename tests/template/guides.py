"""Guides that a reader follows: their blocks are done in a service, from top to bottom."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.template.baking import clean_environment

BLOCK = re.compile(r"^```(?P<kind>python|shell|sql)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
GROWING = ("app/models.py", "app/extensions.py")  # a guide says: at the end of
_MAKE = {"make migrate": ["-m", "alembic", "upgrade", "heads"], "make test": ["-m", "pytest", "-q"]}


@dataclass
class Guide:
    """A page, the service in which it is followed, and what was said and written on the way."""

    page: str
    service: Path
    database_url: str
    sql: Callable[[str], object] | None = None  # runs statements as the owner of the database
    said: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)  # Python files, from the service's folder

    def follow(self) -> None:
        for block in BLOCK.finditer(self.page):
            kind, text = block["kind"], block["text"]
            if kind == "python":
                self._write(text)
            elif kind == "shell":
                self.said += [self.run(line) for line in text.splitlines()]
            else:
                assert self.sql is not None, text
                self.sql(text)

    def _write(self, text: str) -> None:
        first, _, code = text.partition("\n")
        name = first.removeprefix("# ")
        path = self.service / name
        before = path.read_text(encoding="utf-8") + "\n\n" if name in GROWING else ""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(before + code, encoding="utf-8")
        self.written.append(name)

    def run(self, line: str) -> str:
        """Run a command of the page in the service; return what it said."""
        words = _MAKE.get(line)
        if words is None:
            program, *arguments = shlex.split(line)
            assert program in (".venv/bin/python", ".venv/bin/alembic"), line
            words = [*(["-m", "alembic"] if program.endswith("alembic") else []), *arguments]
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.service,
            env=clean_environment(DATABASE_URL=self.database_url),
            capture_output=True,
            encoding="utf-8",
            timeout=840,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout
