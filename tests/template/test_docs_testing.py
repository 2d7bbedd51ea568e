"""Every Python block of these pages is a file of tests of a generated service, and passes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.template.baking import ROOT

DOCS = ROOT / "docs"
# A page, and how many blocks it has at least: a page whose blocks are not found would pass.
DOCUMENTS = {
    "testing.md": 8,
    "publishing.md": 12,
    "consuming.md": 14,
    "admin-api.md": 5,
    "coming-from-the-gem.md": 7,
    "extending.md": 12,
}
# The pages' service is called `orders`, and its peer `billing`.
NAMES = """
import pytest


@pytest.fixture(scope="session")
def service_values():
    return {"app_name": "orders", "destination_app": "billing"}
"""
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", DOCUMENTS)
def test_the_blocks_of_the_page_pass(default_service: Path, page: str) -> None:
    blocks = _BLOCK.findall((DOCS / page).read_text())
    assert len(blocks) >= DOCUMENTS[page]
    folder = default_service / "tests" / "page"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "conftest.py").write_text(NAMES)
    try:
        for number, block in enumerate(blocks):
            text = f"from app.models import Customer\n\n{block}"
            (folder / f"test_block_{number}.py").write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "tests/page"],
            cwd=default_service,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{sum(block.count('async def test_') for block in blocks)} passed" in done.stdout
