"""For tests: a JetStream that behaves, a clock that jumps, and faults by name.

Nothing that runs in production imports this package.
"""

from jetstream_bridge.testing.client import MockClient
from jetstream_bridge.testing.clock import VirtualClock
from jetstream_bridge.testing.deliver import Deliver, Delivered, Outcome
from jetstream_bridge.testing.errors import NotSimulated
from jetstream_bridge.testing.events import SentEvent, make_event
from jetstream_bridge.testing.faults import Faults
from jetstream_bridge.testing.published import Published
from jetstream_bridge.testing.server import MockServer

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
