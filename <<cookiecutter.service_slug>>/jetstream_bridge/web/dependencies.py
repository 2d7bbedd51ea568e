"""What a route asks for: a session, a publisher in that session, and the service's resources."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

from fastapi import Depends, Request

from jetstream_bridge.core.errors import ConfigurationError
from jetstream_bridge.inbox.dependencies import Resources
from jetstream_bridge.outbox.publisher import Publisher
from jetstream_bridge.service.database import SessionDep

if TYPE_CHECKING:
    from jetstream_bridge.bridge import Bridge

__all__ = ["PublisherDep", "SessionDep", "from_resource", "get_publisher"]

T = TypeVar("T")


async def get_publisher(request: Request, session: SessionDep) -> Publisher:
    """Return what announces events in the request's own transaction."""
    bridge: Bridge = request.app.state.bridge
    return bridge.publisher(session)


PublisherDep = Annotated[Publisher, Depends(get_publisher)]


def from_resource(kind: type[T]) -> Callable[[Request], Awaitable[T]]:
    """Return a dependency that finds a resource: `Annotated[Cache, Depends(from_resource(Cache))]`.

    `kind` is the class that the resource's function is annotated with.
    """

    async def find(request: Request) -> T:
        resources: Resources = request.app.state.resources
        found = resources.get(kind)
        if found is None:
            raise ConfigurationError(
                f"no resource of type {kind.__qualname__} is open; register one with "
                "@extensions.resource in app/extensions.py"
            )
        return found  # type: ignore[return-value]

    return find
