"""The JetStream bridge: outbox, relay, inbox, consumers and topology of one service.

The service hands in its configuration and its session factory, and gets a `Bridge`. It does not
edit this package; an update of the template replaces it.
"""

from .bridge import Bridge, Check
from .config import BridgeConfig, ConnectionOptions
from .envelope import Envelope
from .errors import BridgeError, Retry, Unrecoverable
from .event import Event, Metadata
from .letter import DeadLetter
from .nats_session import ClientFactory, GuardedClient
from .publish_batch import PublishBatch
from .publish_result import BatchResult, PublishResult
from .publisher import Publisher
from .registry import Consumers
from .retry import Backoff, Delays, Exponential, Linear, RetryStrategy

__version__ = "0.1.0"  # of the template that this package came with

__all__ = [
    "Backoff",
    "BatchResult",
    "Bridge",
    "BridgeConfig",
    "BridgeError",
    "Check",
    "ClientFactory",
    "ConnectionOptions",
    "Consumers",
    "DeadLetter",
    "Delays",
    "Envelope",
    "Event",
    "Exponential",
    "GuardedClient",
    "Linear",
    "Metadata",
    "PublishBatch",
    "PublishResult",
    "Publisher",
    "Retry",
    "RetryStrategy",
    "Unrecoverable",
    "__version__",
]
