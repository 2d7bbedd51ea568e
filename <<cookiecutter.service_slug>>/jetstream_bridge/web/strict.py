"""Requests are taken at their word: nothing unknown is ignored, nothing is converted.

A misspelt filter would otherwise be a question about everything, and get an answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Annotated, Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BeforeValidator, StrictInt


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Beside `StrictInt`, JSON's integer: 5 and 5.0, neither "5" nor true.
ALSO_INTEGRAL_FLOATS = BeforeValidator(_whole)
WholeNumber = Annotated[StrictInt, ALSO_INTEGRAL_FLOATS]


class StrictRoute(APIRoute):
    """Answers 422 to a query parameter that none of its functions declares, or that comes twice.

    It has no use for parameters that are lists.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        known = sorted(_declared(self.dependant))

        async def checked(request: Request) -> Response:
            faults = list(_faults(request, known))
            if faults:
                raise RequestValidationError(faults)
            return await handler(request)

        return checked


def _faults(request: Request, known: list[str]) -> Iterator[dict[str, object]]:
    for name, number in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in known:
            rule = f"known are {', '.join(known)}" if known else "this request takes none"
            yield _fault(name, f"There is no such parameter; {rule}")
        elif number > 1:
            yield _fault(name, "It is given more than once; give it once")


def _fault(name: str, message: str) -> dict[str, object]:
    return {"type": "value_error", "loc": ("query", name), "msg": message}


def _declared(dependant: Dependant) -> Iterator[str]:
    for field in dependant.query_params:
        yield field.alias
    for inner in dependant.dependencies:
        yield from _declared(inner)
