"""For tests: a JetStream that behaves, a clock that jumps, and faults by name.

Nothing that runs in production imports this package.
"""

from .client import MockClient
from .clock import VirtualClock
from .deliver import Deliver, Delivered, Outcome
from .errors import NotSimulated
from .events import SentEvent, make_event
from .faults import Faults
from .published import Published
from .server import MockServer

__all__ = [
    "Deliver",
    "Delivered",
    "Faults",
    "MockClient",
    "MockServer",
    "NotSimulated",
    "Outcome",
    "Published",
    "SentEvent",
    "VirtualClock",
    "make_event",
]
