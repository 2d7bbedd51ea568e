"""Who may see the console: whoever has a session. Asked before routing, and reads no body.

A browser that comes without one is led to the login. Everything else is told 401: a script has no
use for a page.
"""

from __future__ import annotations

from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Scope

from jetstream_bridge.service.problems import problem
from jetstream_bridge.web.console.headers import secured
from jetstream_bridge.web.console.sessions import Session, Sessions
from jetstream_bridge.web.console.urls import (
    LOGIN,
    is_of_the_console,
    needs_no_session,
    path_of,
    root_of,
)

_SESSION = "jetstream_bridge.web.console.session"  # in the scope of a request that has one
_DETAIL = (
    f"This page needs a session: log in at {LOGIN} with a browser. The API under /admin takes the "
    "header Authorization: Bearer with the value of ADMIN_TOKEN."
)
_CLOSED = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Administration is switched off</title>
</head>
<body>
<main>
<h1>Administration is switched off</h1>
<p>Nothing is served here until <code>ADMIN_TOKEN</code> is set. Write it into the environment of
this service, restart it, and come back.</p>
</main>
</body>
</html>
"""


class ConsoleLogin:
    """Lets requests for the console pass that have a session, or need none."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def covers(self, scope: Scope) -> bool:
        return is_of_the_console(path_of(scope))

    def answer(self, scope: Scope) -> Response | None:
        """Return what a request gets instead of a page; None lets it in."""
        path = path_of(scope)
        session = self._sessions.read(HTTPConnection(scope).cookies.get(self._sessions.cookie))
        if session is not None:
            scope[_SESSION] = session
        if session is not None or needs_no_session(path):
            return None
        if not wants_page(scope):
            return secured(
                problem(401, _DETAIL, headers={"WWW-Authenticate": 'Bearer realm="admin"'})
            )
        target = path
        if scope.get("query_string"):
            target += "?" + scope["query_string"].decode("latin-1")
        onward = f"?next={quote(target, safe='')}" if scope["method"] == "GET" else ""
        return secured(RedirectResponse(f"{root_of(scope)}{LOGIN}{onward}", 303))


def login_of(scope: Scope) -> ConsoleLogin | None:
    """Return who asks for sessions; None where the application has no console."""
    login: ConsoleLogin | None = getattr(scope["app"].state, "console_login", None)
    return login


def session_in(scope: Scope) -> Session | None:
    """Return the session that `ConsoleLogin` found."""
    session: Session | None = scope.get(_SESSION)
    return session


def wants_page(scope: Scope) -> bool:
    """Say whether a person is asking, who can read a page."""
    return "text/html" in Headers(scope=scope).get("accept", "").lower()


def closed_page() -> Response:
    """What a person sees without ADMIN_TOKEN."""
    return secured(HTMLResponse(_CLOSED, 403))
