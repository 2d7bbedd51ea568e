"""Where handlers register: `@consumers.on("customer.created")`."""

from __future__ import annotations

from jetstream_bridge import Consumers
from jetstream_bridge.inbox.middleware import Logging, Metrics, Tracing

consumers = Consumers()
consumers.use(Tracing(), Metrics(), Logging())
