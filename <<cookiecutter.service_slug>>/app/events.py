"""How a route announces what it did: `events: EventsDep`, then `await events.publish(...)`.

The publisher works in the request's own session, so an event is announced exactly when what the
route wrote is committed. `@events.upcast("customer.created", from_version=1)` registers how an
event of an older schema version becomes one of the next, before its handler gets it.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from app.consumers.registry import consumers
from jetstream_bridge import Bridge, Publisher
from jetstream_bridge.service.database import SessionDep

upcast = consumers.upcast


def get_publisher(request: Request, session: SessionDep) -> Publisher:
    bridge: Bridge = request.app.state.bridge
    return bridge.publisher(session)


EventsDep = Annotated[Publisher, Depends(get_publisher)]
