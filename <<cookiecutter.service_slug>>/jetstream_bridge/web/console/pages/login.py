"""Logging in with the token, and out again."""

from __future__ import annotations

import math
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import JSONResponse, RedirectResponse

from jetstream_bridge.core.logger import get_logger
from jetstream_bridge.web.admin.access import address_of
from jetstream_bridge.web.console.auth import session_in
from jetstream_bridge.web.console.forms import FormDep
from jetstream_bridge.web.console.headers import secured
from jetstream_bridge.web.console.login_throttle import LoginThrottle
from jetstream_bridge.web.console.pages.access import ConsoleRoute, OpenRoute
from jetstream_bridge.web.console.rendering import page
from jetstream_bridge.web.console.sessions import LIFETIME, Sessions
from jetstream_bridge.web.console.urls import HOME, LOGIN, UNDER, own_page, root_of

router = APIRouter()
_open = APIRouter(prefix=LOGIN, route_class=OpenRoute)
_closed = APIRouter(prefix=UNDER, route_class=ConsoleRoute)

_log = get_logger(__name__)


@_open.get("")
async def ask(
    request: Request, next: Annotated[str | None, Query(max_length=2000)] = None
) -> Response:
    if session_in(request.scope) is not None:
        return secured(RedirectResponse(root_of(request.scope) + own_page(next), 303))
    return _form(request, next, error=None)


@_open.get("/known")
async def known(request: Request) -> Response:
    """Say whether there is a session. A link from elsewhere comes without the cookie, so that the
    login page is shown; what that page asks comes with it."""
    return secured(JSONResponse({"known": session_in(request.scope) is not None}))


@_open.post("")
async def log_in(request: Request, form: FormDep) -> Response:
    throttle: LoginThrottle = request.app.state.login_throttle
    sessions: Sessions = request.app.state.console_sessions
    address = address_of(request)
    onward = form.text("next")
    wait = math.ceil(throttle.wait(address))
    if wait:
        error = f"Too many wrong tokens. Wait {wait} s, then try again."
        answer = _form(request, onward, error=error, status=429)
        answer.headers["Retry-After"] = str(wait)
        return answer
    if not sessions.opens(form.text("token") or ""):
        throttle.failed(address)
        _log.warning("login to the console refused", address=address)
        return _form(request, onward, error="That is not the token of this service.", status=401)
    _log.info("login to the console", address=address)
    return _let_in(request, sessions, own_page(onward))


@_closed.post("/logout")
async def log_out(request: Request) -> Response:
    sessions: Sessions = request.app.state.console_sessions
    root = root_of(request.scope)
    answer = secured(RedirectResponse(root + LOGIN, 303))
    answer.delete_cookie(sessions.cookie, path=root + HOME, httponly=True, samesite="strict")
    return answer


def _let_in(request: Request, sessions: Sessions, target: str) -> Response:
    root = root_of(request.scope)
    answer = secured(RedirectResponse(root + target, 303))
    answer.set_cookie(
        sessions.cookie,
        sessions.begin(),
        max_age=LIFETIME,
        path=root + HOME,
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return answer


def _form(
    request: Request, onward: str | None, *, error: str | None, status: int = 200
) -> Response:
    target = own_page(onward)
    return page(request, "login.html", status=status, onward=target, error=error)


router.include_router(_open)
router.include_router(_closed)
