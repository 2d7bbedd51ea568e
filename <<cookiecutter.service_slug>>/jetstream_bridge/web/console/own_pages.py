"""A service's own pages in the console: for whoever is logged in, with the console's frame."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from markupsafe import Markup
from starlette.responses import HTMLResponse

from jetstream_bridge.core.errors import ConfigurationError
from jetstream_bridge.web.console.pages.access import ConsoleRoute
from jetstream_bridge.web.console.rendering import page
from jetstream_bridge.web.console.urls import UNDER


def console_router(prefix: str, **options: Any) -> APIRouter:
    """Return a router for pages under `/admin/console` + `prefix`, which need a login.

    A form that changes something carries the session's token: `console_page` hands it out. The
    routes are no part of OpenAPI. `options` are FastAPI's. Raises `ConfigurationError` for a
    prefix that does not begin with a slash.
    """
    if not prefix.startswith("/") or prefix == "/":
        raise ConfigurationError(f"prefix {prefix!r} is none; write one like '/reports'")
    given: dict[str, Any] = {"route_class": ConsoleRoute, "include_in_schema": False} | options
    return APIRouter(prefix=UNDER + prefix, **given)


def console_page(request: Request, title: str, content: Markup | str) -> HTMLResponse:
    """Return a page of the console. Text in `content` is escaped, unless it is `Markup`."""
    return page(request, "own.html", title=title, content=content)
