"""A person at the console, without a browser: what it sends, and what it reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html.parser import HTMLParser

import httpx

from jetstream_bridge.testing.plugin import ADMIN_TOKEN

BASE = "/admin/console"
LOGIN = f"{BASE}/login"
HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


class _Reader(HTMLParser):
    """Collects what is seen of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if tag == "a":
            self.links.append(found.get("href") or "")
        if tag == "input" and found.get("type") == "hidden":
            self.fields[found.get("name") or ""] = found.get("value") or ""

    def handle_data(self, data: str) -> None:
        self.words.append(data)


class Page:
    """One answer, as a person reads it."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.status = answer.status_code
        self.location = answer.headers.get("location", "")
        reader = _Reader()
        reader.feed(answer.text)
        self.text = re.sub(r"\s+", " ", "".join(reader.words))
        self.links = reader.links
        self.tags = reader.tags
        self.fields = reader.fields

    def link(self, part: str) -> str:
        return next(link for link in self.links if part in link)


class Person:
    """Somebody with a browser. `csrf` is what the forms of the pages carry."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.csrf = ""

    async def log_in(self) -> Page:
        """Log in and read the first page."""
        await self.post(LOGIN, {"token": ADMIN_TOKEN})
        page = await self.get("/admin")
        self.csrf = page.fields["csrf"]
        return page

    async def get(self, path: str, **query: str) -> Page:
        return Page(await self.client.get(path, params=query or None, headers=HTML))

    async def post(
        self, path: str, fields: Mapping[str, str | list[str]] | None = None, **headers: str
    ) -> Page:
        """Send a form as a page of the console does."""
        form = {"csrf": self.csrf, **(fields or {})}
        return Page(await self.client.post(path, data=form, headers=HTML | headers))

    async def done(self, path: str, fields: Mapping[str, str | list[str]] | None = None) -> str:
        """Send a form, follow where it leads, and return what that page says."""
        sent = await self.post(path, fields)
        assert sent.status == 303, sent.text
        return (await self.get(sent.location)).text
