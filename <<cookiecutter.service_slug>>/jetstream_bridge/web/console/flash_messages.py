"""What an action has to say on the page that comes after it, in a signed cookie of a minute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from itsdangerous import BadSignature
from starlette.requests import Request
from starlette.responses import RedirectResponse

from jetstream_bridge.web.console.headers import secured
from jetstream_bridge.web.console.sessions import Sessions
from jetstream_bridge.web.console.urls import HOME, root_of

Tone = Literal["ok", "warn"]

_KEPT = 60  # seconds
_LONGEST = 600  # characters; a cookie has 4 KB


@dataclass(frozen=True, slots=True)
class FlashMessage:
    tone: Tone
    text: str


def done(request: Request, to: str, text: str, *, tone: Tone = "ok") -> RedirectResponse:
    """Lead on, after a change, to the page at `to`, which says `text`."""
    sessions: Sessions = request.app.state.console_sessions
    request.app.state.snapshots.expire()
    answer = secured(RedirectResponse(root_of(request.scope) + to, 303))
    answer.set_cookie(
        sessions.notice_cookie,
        sessions.notices.dumps([tone, text[:_LONGEST]]),
        max_age=_KEPT,
        path=root_of(request.scope) + HOME,
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return answer


def notice_in(request: Request, sessions: Sessions) -> FlashMessage | None:
    """Return what the action before had to say."""
    cookie = request.cookies.get(sessions.notice_cookie)
    if not cookie:
        return None
    try:
        tone, text = sessions.notices.loads(cookie)
    except BadSignature:
        return None
    return FlashMessage(tone, text)
