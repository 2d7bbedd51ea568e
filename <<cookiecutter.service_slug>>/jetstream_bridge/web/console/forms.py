"""What a form says, after it is certain that it comes from one of our pages.

Two questions to every form: does the browser say that another site sent it, and does it carry the
secret of its session. The second one alone would do; the first also guards the login, which has
no session yet.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, HTTPException, Request

from jetstream_bridge.web.console.auth import session_in

CSRF_FIELD = "csrf"
_MEDIA_TYPE = "application/x-www-form-urlencoded"
_MOST_FIELDS = 1000
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f]+")
_FORM = "jetstream_bridge.web.console.form"  # in the scope of a request whose form was checked


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form; one may come several times."""

    fields: tuple[tuple[str, str], ...]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]

    def text(self, name: str) -> str | None:
        """Return the field's text, None where it is empty or absent."""
        return next((value for value in self.all(name) if value), None)

    def required(self, name: str, *, longest: int = 255) -> str:
        """Return the field's text; a form without it is none of ours."""
        value = self.text(name)
        if value is None or len(value) > longest or not _PRINTABLE.fullmatch(value):
            raise HTTPException(422, f"The form has no usable field {name!r}.")
        return value

    def numbers(self, name: str) -> list[int]:
        """Return the field's whole numbers, as a stream or a table counts its items."""
        values = self.all(name)
        usable = [text for text in values if text.isascii() and text.isdigit() and len(text) < 16]
        if len(usable) < len(values) or "0" in usable:
            raise HTTPException(422, f"The form's field {name!r} is no number from 1 on.")
        return [int(text) for text in usable]


async def accept_form(request: Request, *, csrf: bool) -> None:
    """Check a form that was sent and keep it for the route. Raises `HTTPException` otherwise."""
    _check_origin(request)
    form = await _read(request)
    if csrf:
        session = session_in(request.scope)
        given = form.text(CSRF_FIELD) or ""
        if session is None or not secrets.compare_digest(given.encode(), session.csrf.encode()):
            raise HTTPException(
                403, "The form is not of this session. Go back, load the page anew, and try again."
            )
    request.scope[_FORM] = form


async def _form_of(request: Request) -> Form:
    form: Form = request.scope[_FORM]
    return form


FormDep = Annotated[Form, Depends(_form_of)]


def _check_origin(request: Request) -> None:
    """Refuse what a browser says is from another site; a client that says nothing is no browser."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        ours = site in ("same-origin", "none")
    else:  # an older browser, or one that trusts plain HTTP too little to say
        origin = request.headers.get("origin")
        ours = origin is None or urlsplit(origin).netloc == request.headers.get("host", "")
    if not ours:
        raise HTTPException(403, "The form was sent from another site, so it was not obeyed.")


async def _read(request: Request) -> Form:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _MEDIA_TYPE:
        raise HTTPException(415, f"A form is sent as {_MEDIA_TYPE}, not as {kind or 'nothing'}.")
    body = await request.body()
    try:
        pairs = parse_qsl(
            body.decode(),
            keep_blank_values=True,
            max_num_fields=_MOST_FIELDS,
            encoding="utf-8",
            errors="strict",
        )
    except ValueError as error:
        raise HTTPException(400, f"The form cannot be read: {error}.") from error
    return Form(tuple(pairs))
