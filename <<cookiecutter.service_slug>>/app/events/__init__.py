"""What this service tells others. Each module here declares the payload of an event, or of several.

`@publishes("order.placed")` above a Pydantic model declares it: then the event leaves as the model
says, and is part of the contract (`python -m app.cli contract`). A route announces what it did with
`events: EventsDep`, in its own transaction, so exactly when what it wrote is committed.

`@upcast("customer.created", from_version=1)` registers how a received event of an older schema
version becomes one of the next, before its handler gets it.
"""

from __future__ import annotations

from app.consumers.registry import consumers
from app.extensions import extensions
from jetstream_bridge.web import PublisherDep as EventsDep

__all__ = ["EventsDep", "publishes", "upcast"]

publishes = extensions.publishes
upcast = consumers.upcast
