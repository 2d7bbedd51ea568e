"""Where handlers register: `@consumers.on("customer.created")`."""

from __future__ import annotations

from app.bridge import Consumers
from app.bridge.middleware import Logging, Metrics, Tracing

consumers = Consumers()
consumers.use(Tracing(), Metrics(), Logging())
