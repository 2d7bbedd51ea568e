"""Where handlers register: `@consumers.on("customer.created")`."""

from __future__ import annotations

from app.extensions import extensions
from jetstream_bridge import Consumers
from jetstream_bridge.inbox.middleware import Logging, Metrics, Tracing

consumers = Consumers(resources=extensions.types)
consumers.use(Tracing(), Metrics(), Logging())
