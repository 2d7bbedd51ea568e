"""What wraps handlers and what is told how events end; `consumers.use(...)` adds them."""

from jetstream_bridge.inbox.middleware.chain import CallNext, CallNextBatch, Middleware
from jetstream_bridge.inbox.middleware.ended import Ended, Observer
from jetstream_bridge.inbox.middleware.errors import ErrorHandling
from jetstream_bridge.inbox.middleware.logs import Logging
from jetstream_bridge.inbox.middleware.metrics import Metrics
from jetstream_bridge.inbox.middleware.timeout import Timeout
from jetstream_bridge.inbox.middleware.tracing import Tracing

__all__ = [
    "CallNext",
    "CallNextBatch",
    "Ended",
    "ErrorHandling",
    "Logging",
    "Metrics",
    "Middleware",
    "Observer",
    "Timeout",
    "Tracing",
]
