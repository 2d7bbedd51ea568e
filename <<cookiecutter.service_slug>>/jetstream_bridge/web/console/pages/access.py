"""What every page shares: it is for a session, checks each form, and errors are pages too."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BeforeValidator
from starlette.exceptions import HTTPException

from jetstream_bridge.service.operator import Operations
from jetstream_bridge.service.problems import problem
from jetstream_bridge.web.admin.access import FAULTS, address_of, as_http
from jetstream_bridge.web.console.auth import session_in, wants_page
from jetstream_bridge.web.console.forms import accept_form
from jetstream_bridge.web.console.headers import secured
from jetstream_bridge.web.console.overview import Overview, overview
from jetstream_bridge.web.console.rendering import page
from jetstream_bridge.web.strict import StrictRoute

_READING = frozenset({"GET", "HEAD"})
_PRINTABLE = r"^[^\x00-\x1f\x7f]+$"


class ConsoleRoute(StrictRoute):
    """A route for those who are logged in. What is not reading has its form checked first."""

    needs_session = True

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                if self.needs_session and session_in(request.scope) is None:
                    raise HTTPException(403, "The request has no session.")
                if request.method not in _READING:
                    await accept_form(request, csrf=self.needs_session)
                elif self.needs_session:
                    await look(request)
                return await handler(request)
            except RequestValidationError as error:
                return failed(request, HTTPException(422, _sentence(error)))
            except HTTPException as error:
                return failed(request, error)
            except FAULTS as error:
                return failed(request, as_http(error))

        return guarded


class OpenRoute(ConsoleRoute):
    """A route for those who are not logged in yet."""

    needs_session = False


async def look(request: Request) -> Overview:
    """Return what the overview shows; of that are the badges on every page. At most once for each
    request, and in two seconds."""
    state = request.app.state
    known: Overview | None = getattr(request.state, "overview", None)
    if known is None:
        known = await overview(state.snapshots, state.health, state.bridge, state.settings)
        request.state.overview = known
    return known


async def _operations(request: Request) -> Operations:
    state = request.app.state
    return Operations(state.bridge, state.database, by=f"console, {address_of(request)}")


OperationsDep = Annotated[Operations, Depends(_operations)]


def _blank_is_none(value: object) -> object:
    """An empty field of a form is sent all the same; what was pasted may have blanks around it."""
    return value.strip() or None if isinstance(value, str) else value


Blank = BeforeValidator(_blank_is_none)
Filter = Annotated[str | None, Query(max_length=600, pattern=_PRINTABLE), Blank]
EventId = Annotated[str, Query(alias="id", max_length=255, pattern=_PRINTABLE)]


def failed(request: Request, error: HTTPException) -> Response:
    """Tell a person what went wrong, on a page; a script gets a problem document."""
    headers = dict(error.headers or {})
    if not wants_page(request.scope):
        return secured(problem(error.status_code, error.detail, headers=headers))
    title = HTTPStatus(error.status_code).phrase
    answer = page(
        request,
        "error.html",
        status=error.status_code,
        title=title,
        code=error.status_code,
        detail=error.detail,
    )
    answer.headers.update(headers)
    return answer


def _sentence(error: RequestValidationError) -> str:
    faults = [f"{fault['loc'][-1]}: {fault['msg']}" for fault in error.errors()]
    return f"The address has something that it should not have. {'; '.join(faults)}."
