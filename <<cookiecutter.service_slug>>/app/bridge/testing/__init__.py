"""For tests: a JetStream that behaves, a clock that jumps, and faults by name.

Nothing that runs in production imports this package.
"""

from .client import MockClient
from .clock import VirtualClock
from .errors import NotSimulated
from .faults import Faults
from .server import MockServer

__all__ = ["Faults", "MockClient", "MockServer", "NotSimulated", "VirtualClock"]
