"""docs/getting-started.md, followed from top to bottom in a service made with the defaults."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.template.baking import ROOT, clean_environment
from tests.template.test_static import mypy, ruff

PAGE = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(?P<kind>python|shell)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
GROWS = "app/models.py"  # the page says: at the end of
COMMANDS = {
    "make migrate": ["-m", "alembic", "upgrade", "heads"],
    "make test": ["-m", "pytest", "-q"],
}


def follow(service: Path, kind: str, text: str) -> list[str]:
    """Do what a block says; return what its commands said."""
    if kind == "python":
        first, _, code = text.partition("\n")
        path = service / first.removeprefix("# ")
        before = path.read_text(encoding="utf-8") + "\n\n" if str(path).endswith(GROWS) else ""
        path.write_text(before + code, encoding="utf-8")
        return []
    return [run(service, line) for line in text.splitlines()]


def run(service: Path, line: str) -> str:
    words = COMMANDS.get(line)
    if words is None:
        program, *arguments = shlex.split(line)
        assert program in (".venv/bin/python", ".venv/bin/alembic"), line
        words = [*(["-m", "alembic"] if program.endswith("alembic") else []), *arguments]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=service,
        env=clean_environment(DATABASE_URL="sqlite+aiosqlite:///./guide.db"),
        capture_output=True,
        encoding="utf-8",
        timeout=840,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_guide_can_be_followed(default_service: Path, tmp_path: Path) -> None:
    service = tmp_path / "orders-service"
    shutil.copytree(default_service, service)
    said = [line for block in BLOCK.finditer(PAGE) for line in follow(service, **block.groupdict())]

    assert " passed" in said[-1]
    mine = [block["text"].partition("\n")[0].removeprefix("# ") for block in BLOCK.finditer(PAGE)]
    written = [name for name in mine if name.endswith(".py")]
    assert len(written) == 6
    ruff(service, *written)
    mypy(service, tmp_path / "mypy", *written)
