"""What wraps handlers and what is told how events end; `consumers.use(...)` adds them."""

from .chain import CallNext, Middleware
from .ended import Ended, Observer
from .errors import ErrorHandling
from .logs import Logging
from .metrics import Metrics
from .timeout import Timeout
from .tracing import Tracing

__all__ = [
    "CallNext",
    "Ended",
    "ErrorHandling",
    "Logging",
    "Metrics",
    "Middleware",
    "Observer",
    "Timeout",
    "Tracing",
]
