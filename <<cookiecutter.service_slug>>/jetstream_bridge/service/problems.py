"""Every error leaves as a problem document (RFC 9457), and none tells what went on inside.

OpenAPI says so too: what FastAPI would describe as its own kind of 422 is replaced.

A request body is refused once it is larger than the limit, also when it comes in chunks and
does not say how large it will be.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from traceback import walk_tb
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from jetstream_bridge.core.database_faults import DATABASE_ERRORS, Fault, fault_of
from jetstream_bridge.core.database_probe import described
from jetstream_bridge.core.errors import NatsConnectionError, PublishUnavailableError
from jetstream_bridge.core.logger import get_logger

MEDIA_TYPE = "application/problem+json"
MAX_BODY = 1024 * 1024  # bytes
RETRY_AFTER = 5  # seconds
_OF_STARLETTE = "Content Too Large"  # what its limit says
_TOO_LARGE = f"The body is larger than {MAX_BODY} bytes; send less at once."

_SCHEMA = "Problem"

_log = get_logger(__name__)

Json = dict[str, Any]


def problem(
    status: int,
    detail: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    **members: object,
) -> JSONResponse:
    """A problem document. `members` are further fields of it, like `errors`."""
    document: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
    }
    if detail is not None and detail != document["title"]:
        document["detail"] = detail
    return JSONResponse(
        document | members,
        status_code=status,
        headers=dict(headers) if headers else None,
        media_type=MEDIA_TYPE,
    )


def install(app: FastAPI) -> None:
    """Make `app` answer every error with a problem document, and bound its request bodies."""
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    for kind in (*DATABASE_ERRORS, PublishUnavailableError, NatsConnectionError):
        app.add_exception_handler(kind, _unavailable)
    app.add_exception_handler(Exception, _unexpected)
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=MAX_BODY)
    app.add_middleware(DeclaredLength, max_bytes=MAX_BODY)
    app.openapi = partial(_described, app)  # type: ignore[method-assign]


def problem_responses(*statuses: int) -> dict[int | str, Json]:
    """What a route says in OpenAPI about the errors that it answers with."""
    content = {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{_SCHEMA}"}}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in statuses
    }


def _described(app: FastAPI) -> Json:
    """Make the OpenAPI document, with every error as what it is."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        for path in document["paths"].values():
            for operation in path.values():
                _describe_errors(operation)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas[_SCHEMA] = _PROBLEM_SCHEMA
    assert app.openapi_schema is not None
    return app.openapi_schema


def _describe_errors(operation: Json) -> None:
    statuses = [status for status in (422,) if str(status) in operation["responses"]]
    if "requestBody" in operation:
        statuses += [400, 413]
    for status, response in problem_responses(*statuses).items():
        operation["responses"][str(status)] = response


_PROBLEM_SCHEMA: Json = {
    "title": _SCHEMA,
    "description": "An error (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "detail"],
                "properties": {"field": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    detail = _TOO_LARGE if error.detail == _OF_STARLETTE else error.detail
    return problem(error.status_code, detail, headers=headers)


def _methods(request: Request) -> set[str]:
    """Every method of a path; the router itself names those of the first route only."""
    return {
        method
        for route in request.app.routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }


async def _invalid_request(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # The value itself is left out: it may be a password in the wrong field.
    faults = [
        {"field": ".".join(str(part) for part in fault["loc"]), "detail": fault["msg"]}
        for fault in error.errors()
    ]
    return problem(422, "The request does not have the expected form.", errors=faults)


async def _unavailable(request: Request, error: Exception) -> JSONResponse:
    """What was asked for is not wrong: the database is away, busy or slow, or NATS is away."""
    fault = _fault(error)
    if fault is Fault.EVENT:
        raise error
    _log.error(
        "request could not be served",
        method=request.method,
        path=request.url.path,
        error=f"{type(error).__name__}: {described(error)}",
        fault=fault.name.lower(),
    )
    detail = "The service cannot do this now; send the request again."
    return problem(503, detail, headers={"Retry-After": str(RETRY_AFTER)})


def _fault(error: Exception) -> Fault:
    """Whose fault it is; what any socket may raise is the database's if it came through it."""
    if isinstance(error, PublishUnavailableError | NatsConnectionError):
        return Fault.AWAY
    fault = fault_of(error)
    return Fault.EVENT if fault is Fault.UNCLEAR and not _met_the_database(error) else fault


def _met_the_database(error: BaseException) -> bool:
    modules = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
    return any(str(module).startswith("sqlalchemy.") for module in modules)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    _log.error(
        "request failed", method=request.method, path=request.url.path, error=type(error).__name__
    )
    return problem(500, "The service failed to answer this request. The fault is in its log.")


class DeclaredLength:
    """Refuses a request that announces too large a body, before any of it is read.

    Starlette's limit, inside, counts the bytes of those that do not say how large they will be.
    It would refuse these too, but not with a problem document.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = scope["type"] == "http" and self._is_too_much(scope)
        await (problem(413, _TOO_LARGE) if refused else self._app)(scope, receive, send)

    def _is_too_much(self, scope: Scope) -> bool:
        length = Headers(scope=scope).get("content-length", "")
        return length.isdecimal() and int(length) > self._max_bytes
