"""Nothing under /admin without the token, and without a configured token nothing at all.

The gate stands before routing, so that not even a body is read, and an unknown path tells no
more than a known one. The token is compared in constant time.

The console's pages are the exception, where there is a console: `ConsoleLogin` asks for a session
there, and a session opens nothing else.
"""

from __future__ import annotations

import secrets

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from jetstream_bridge.service.problems import problem
from jetstream_bridge.web.console.auth import closed_page, login_of, wants_page
from jetstream_bridge.web.console.urls import path_of

PREFIX = "/admin"
_PASSED = "jetstream_bridge.web.admin_gate.passed"  # in the scope of a request that was let in


class AdminGate:
    """Lets requests under `/admin` pass that carry `Authorization: Bearer <ADMIN_TOKEN>`."""

    def __init__(self, app: ASGIApp, *, token: SecretStr | None) -> None:
        self._app = app
        self._token = token.get_secret_value().encode() if token is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _is_guarded(scope):
            await self._app(scope, receive, send)
        elif self._token is None:
            detail = "Administration is switched off; set ADMIN_TOKEN to switch it on."
            answer = closed_page() if wants_page(scope) else problem(403, detail)
            await answer(scope, receive, send)
        elif (login := login_of(scope)) is not None and login.covers(scope):
            await (login.answer(scope) or self._app)(scope, receive, send)
        elif not self._is_right(Headers(scope=scope).get("authorization", "")):
            answer = problem(
                401,
                "Send the header Authorization: Bearer with the value of ADMIN_TOKEN.",
                headers={"WWW-Authenticate": 'Bearer realm="admin"'},
            )
            await answer(scope, receive, send)
        else:
            scope[_PASSED] = True
            await self._app(scope, receive, send)

    def _is_right(self, authorization: str) -> bool:
        scheme, _, given = authorization.partition(" ")
        # Headers are read as Latin-1, so this gives back the bytes that were sent.
        sent = given.strip().encode("latin-1", "replace")
        assert self._token is not None
        return secrets.compare_digest(sent, self._token) and scheme.lower() == "bearer"


async def require_passed(request: Request) -> None:
    """Refuse a request that reached a route without having been let in: a fault of ours."""
    if not request.scope.get(_PASSED, False):
        raise HTTPException(403, "The request did not come through the gate.")


def _is_guarded(scope: Scope) -> bool:
    path = path_of(scope)
    return path == PREFIX or path.startswith(f"{PREFIX}/")
