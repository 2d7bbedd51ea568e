"""Every Python block of these pages is a file of tests of a generated service, and passes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.template.baking import ROOT, clean_environment

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


def blocks(page: str) -> list[str]:
    return _BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))


def folder_of(page: str) -> str:
    return re.sub(r"\W", "_", page)


def write(page: str, into: Path) -> None:
    into.mkdir()
    (into / "__init__.py").touch()
    (into / "conftest.py").write_text(NAMES, encoding="utf-8")
    for number, block in enumerate(blocks(page)):
        text = f"from app.models import Customer\n\n{block}"
        (into / f"test_block_{number}.py").write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def results(
    default_service: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[ElementTree.Element]]:
    """What became of each page's tests, in one run for all pages."""
    service = tmp_path_factory.mktemp("pages") / "orders-service"
    shutil.copytree(default_service, service)
    for page in DOCUMENTS:
        write(page, service / "tests" / folder_of(page))
    report = service / "report.xml"
    folders = (f"tests/{folder_of(page)}" for page in DOCUMENTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *folders],
        cwd=service,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert report.exists(), done.stdout + done.stderr
    found: dict[str, list[ElementTree.Element]] = {page: [] for page in DOCUMENTS}
    for case in ElementTree.parse(report).iter("testcase"):
        _, folder, *_ = case.attrib["classname"].split(".")
        found[next(page for page in DOCUMENTS if folder_of(page) == folder)].append(case)
    return found


@pytest.mark.parametrize("page", DOCUMENTS)
def test_the_blocks_of_the_page_pass(
    results: dict[str, list[ElementTree.Element]], page: str
) -> None:
    assert len(blocks(page)) >= DOCUMENTS[page]
    not_passed = [
        f"{case.attrib['classname']}: {case.attrib['name']}\n{''.join(case.itertext())}"
        for case in results[page]
        if len(case)
    ]
    assert not not_passed, "\n".join(not_passed)
    tests = sum(block.count("async def test_") for block in blocks(page))
    assert len(results[page]) == tests > 0
