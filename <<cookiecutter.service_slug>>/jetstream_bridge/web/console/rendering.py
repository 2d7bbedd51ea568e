"""Pages from templates: everything is escaped, and a name that is missing is a fault."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from fastapi import Request
from starlette.responses import HTMLResponse

from jetstream_bridge.core.error_report import shortened
from jetstream_bridge.web.console import formatting as texts
from jetstream_bridge.web.console.assets import ASSETS
from jetstream_bridge.web.console.attention import Badge, badges
from jetstream_bridge.web.console.auth import session_in
from jetstream_bridge.web.console.flash_messages import notice_in
from jetstream_bridge.web.console.headers import secured
from jetstream_bridge.web.console.sessions import Sessions
from jetstream_bridge.web.console.urls import HOME, STATIC, UNDER, path_of, root_of

if TYPE_CHECKING:
    from jinja2 import Environment

_FILTERS = {
    "moment": texts.moment,
    "span": texts.span,
    "number": texts.number,
    "size": texts.size,
    "shortened": shortened,
    "document": texts.document,
}


@functools.cache
def _templates() -> Environment:
    """Made for the first page: most processes never show one."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.filters |= _FILTERS
    return templates


class Links:
    """Addresses of the console as a browser has to write them."""

    def __init__(self, request: Request) -> None:
        self._root = root_of(request.scope)

    @property
    def home(self) -> str:
        return self._root + HOME

    def page(self, path: str) -> str:
        """Return the address of a page that `own_page` has let through."""
        return self._root + path

    def to(self, place: str, **query: object) -> str:
        """Return the address of a page, with those parameters that have a value."""
        given = {name: value for name, value in query.items() if value not in (None, "")}
        return f"{self._root}{UNDER}/{place}" + (f"?{urlencode(given)}" if given else "")

    def asset(self, name: str) -> str:
        return f"{self._root}{STATIC}/{name}?v={ASSETS[name].version}"


def _badges(request: Request) -> dict[str, Badge]:
    """What needs a person, as far as this request has looked."""
    view = getattr(request.state, "overview", None)
    return badges(view) if view is not None else {}


def page(request: Request, template: str, *, status: int = 200, **values: object) -> HTMLResponse:
    """Render a page. `values` are what the template names beside what every page has."""
    state = request.app.state
    sessions: Sessions = state.console_sessions
    notice = notice_in(request, sessions)
    settings = state.settings
    text = (
        _templates()
        .get_template(template)
        .render(
            link=Links(request),
            session=session_in(request.scope),
            notice=notice,
            service=settings.service_name,
            app_name=settings.app_name,
            env=settings.nats_env,
            unknown=texts.UNKNOWN,
            badges=_badges(request),
            own_links=state.console_links,
            path=path_of(request.scope),
            **values,
        )
    )
    answer = secured(HTMLResponse(text, status))
    if notice is not None:
        answer.delete_cookie(
            sessions.notice_cookie, path=root_of(request.scope) + HOME, httponly=True
        )
    return answer
