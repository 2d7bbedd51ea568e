"""What every route here shares: the operator's side of the service, and errors as problems."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Path, Query, Request, Response
from nats.errors import Error as NatsError

from jetstream_bridge.core.database_faults import DATABASE_ERRORS
from jetstream_bridge.core.errors import (
    BridgeError,
    NotFoundError,
    NotPossibleError,
    PublishRefusedError,
)
from jetstream_bridge.core.logger import get_logger
from jetstream_bridge.service.operator import Operations
from jetstream_bridge.service.problems import RETRY_AFTER
from jetstream_bridge.web.strict import StrictRoute

_log = get_logger(__name__)

_PRINTABLE = r"^[^\x00-\x1f\x7f]+$"  # PostgreSQL cannot store NUL in a text
# Beyond this, neither JSON in a browser nor a 64-bit key can tell two numbers apart.
_MOST = 2**53

Limit = Annotated[int, Query(ge=1, le=500, description="The most items to return.")]
EventId = Annotated[str, Path(max_length=255, pattern=_PRINTABLE)]
Text = Annotated[str | None, Query(max_length=600, pattern=_PRINTABLE)]
Sequence = Annotated[int, Path(ge=1, le=_MOST, description="Its place in the stream.")]
RowKey = Annotated[int, Path(ge=1, le=_MOST)]


FAULTS: tuple[type[Exception], ...] = (BridgeError, NatsError, *DATABASE_ERRORS)


def address_of(request: Request) -> str:
    """Return where a request came from, as far as it is known."""
    return request.client.host if request.client is not None else "unknown"


async def get_operations(request: Request) -> Operations:
    state = request.app.state
    return Operations(state.bridge, state.database, by=f"api, {address_of(request)}")


OperationsDep = Annotated[Operations, Depends(get_operations)]


class AdminRoute(StrictRoute):
    """A route whose domain errors leave as problem documents."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                return await handler(request)
            except FAULTS as error:
                raise as_http(error) from error

        return guarded


def as_http(error: Exception) -> HTTPException:
    """Return one of `FAULTS` as the answer that it is: its status, and a sentence."""
    if isinstance(error, NotFoundError):
        return HTTPException(404, _sentence(error))
    if isinstance(error, NotPossibleError | PublishRefusedError):
        return HTTPException(409, _sentence(error))
    again = {"Retry-After": str(RETRY_AFTER)}
    if isinstance(error, BridgeError | NatsError):
        return HTTPException(503, _sentence(error), headers=again)
    # A statement, an address or a value may stand in the text of a driver's error.
    _log.error("the database did not answer an operator", error=type(error).__name__)
    own = type(error) is TimeoutError and bool(str(error))
    sentence = _sentence(error) if own else "The database does not answer now."
    return HTTPException(503, sentence, headers=again)


def _sentence(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return f"{text[0].upper()}{text[1:]}."
