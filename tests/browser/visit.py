"""A person at a browser: one context, logged in, whose every complaint is noted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.browser.service import TOKEN, Service

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

LIMIT = 15_000.0  # milliseconds that anything on a page may take


@dataclass
class Visit:
    """What a person sees, and what the browser complained about meanwhile."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)

    async def go(self, path: str) -> None:
        await self.page.goto(f"{self.url}{path}")

    async def log_in(self) -> None:
        await self.go("/admin")
        await self.page.get_by_label("Token").fill(TOKEN)
        await self.page.get_by_role("button", name="Log in").click()
        await self.page.get_by_role("heading", name="Overview").wait_for()

    async def text(self) -> str:
        seen: str = await self.page.locator("main").inner_text()
        return seen


@asynccontextmanager
async def visiting(browser: Browser, service: Service, **options: Any) -> AsyncIterator[Visit]:
    """Open a page whose requests to other hosts, errors and warnings are complaints."""
    context = await browser.new_context(**options)
    context.set_default_timeout(LIMIT)
    page = await context.new_page()
    visit = Visit(page, service.url)
    own = urlsplit(service.url).netloc

    def look_at(address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme != "data" and parts.netloc != own:
            visit.complaints.append(f"asked another host: {address}")

    page.on("request", lambda request: look_at(request.url))
    page.on("pageerror", lambda error: visit.complaints.append(f"script: {error}"))
    page.on(
        "console",
        lambda message: (
            visit.complaints.append(f"{message.type}: {message.text}")
            if message.type in ("error", "warning")
            else None
        ),
    )
    try:
        yield visit
    finally:
        await context.close()
