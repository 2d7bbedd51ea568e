"""A browser and a service for it. Only asked for by name: `make test-browser`."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.settings import ROOT
from tests.browser.service import Service, running_service

if TYPE_CHECKING:
    from playwright.async_api import Browser

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Whoever selects tests by mark and does not name this one does not want a browser."""
    chosen: str = config.option.markexpr
    return True if chosen and "browser" not in chosen else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.timeout(180))


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """The folder for pictures of the pages; it is in .gitignore."""
    folder = ROOT / ".screenshots"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium: the one that CHROMIUM names, or one of this machine."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None or not Path(found).is_file():
        pytest.fail(
            f"there is no Chromium here (looked for {found or ', '.join(_NAMES)}); "
            "install it (Debian: apt-get install chromium), or name one: CHROMIUM=/path/to/it",
            pytrace=False,
        )
    return found


@pytest.fixture
async def browser(chromium: str) -> AsyncIterator[Browser]:
    try:
        from playwright.async_api import async_playwright
    except ImportError:
        pytest.fail("Playwright is not installed; run: make test-browser", pytrace=False)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=_ARGUMENTS)
        yield browser
        await browser.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service with a worker, nothing in it."""
    with running_service(tmp_path) as service:
        yield service


@pytest.fixture
def parking_service(tmp_path: Path) -> Iterator[Service]:
    """A service that parks events in the inbox and makes no dead letters."""
    with running_service(tmp_path, use_dlq=False) as service:
        yield service
