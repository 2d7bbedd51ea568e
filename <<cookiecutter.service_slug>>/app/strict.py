"""Requests are taken at their word: nothing unknown is ignored, nothing is converted.

A misspelt filter would otherwise be a question about everything, and get an answer.
"""

from __future__ import annotations

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
    """Answers 422 to a query parameter that none of its functions declares."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        known = set(_declared(self.dependant))

        async def checked(request: Request) -> Response:
            faults = [
                {
                    "type": "extra_forbidden",
                    "loc": ("query", name),
                    "msg": f"There is no such parameter; known are: {', '.join(sorted(known))}"
                    if known
                    else "This request takes no parameters",
                }
                for name in request.query_params
                if name not in known
            ]
            if faults:
                raise RequestValidationError(faults)
            return await handler(request)

        return checked


def _declared(dependant: Dependant) -> Iterator[str]:
    for field in dependant.query_params:
        yield field.alias
    for inner in dependant.dependencies:
        yield from _declared(inner)
