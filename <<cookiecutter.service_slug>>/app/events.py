"""How a route announces what it did: `events: EventsDep`, then `await events.publish(...)`.

The publisher works in the request's own session, so an event is announced exactly when what the
route wrote is committed. `@events.upcast("customer.created", from_version=1)` registers how an
event of an older schema version becomes one of the next, before its handler gets it.
"""

from __future__ import annotations

from app.consumers.registry import consumers
from jetstream_bridge.web import PublisherDep as EventsDep

__all__ = ["EventsDep", "upcast"]

upcast = consumers.upcast
