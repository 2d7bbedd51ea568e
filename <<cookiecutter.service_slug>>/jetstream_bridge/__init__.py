"""Events over NATS JetStream: outbox, relay, inbox, consumers and topology of one service.

This package is not a service's own: a service does not edit it, an update replaces it.
A name is imported when it is asked for, so that a command that needs little starts quickly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jetstream_bridge.bridge import Bridge
    from jetstream_bridge.core.config import BridgeConfig, ConnectionOptions
    from jetstream_bridge.core.delays import Backoff, Delays, Exponential, Linear, RetryStrategy
    from jetstream_bridge.core.errors import BridgeError, Retry, Unrecoverable
    from jetstream_bridge.events.dead_letter import DeadLetter
    from jetstream_bridge.events.envelope import Envelope
    from jetstream_bridge.events.event import Event, Metadata
    from jetstream_bridge.inbox.registry import Consumers
    from jetstream_bridge.nats.session import ClientFactory, GuardedClient
    from jetstream_bridge.operations.readiness import Check, status_of
    from jetstream_bridge.outbox.publish_batch import PublishBatch
    from jetstream_bridge.outbox.publish_result import BatchResult, PublishResult
    from jetstream_bridge.outbox.publisher import Publisher

__version__ = "0.2.0"  # of this package, and of its wheel

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
    "status_of",
]

_WHERE = {
    name: module
    for module, names in {
        "jetstream_bridge.bridge": ("Bridge",),
        "jetstream_bridge.core.config": (
            "BridgeConfig",
            "ConnectionOptions",
        ),
        "jetstream_bridge.core.delays": (
            "Backoff",
            "Delays",
            "Exponential",
            "Linear",
            "RetryStrategy",
        ),
        "jetstream_bridge.core.errors": (
            "BridgeError",
            "Retry",
            "Unrecoverable",
        ),
        "jetstream_bridge.events.dead_letter": ("DeadLetter",),
        "jetstream_bridge.events.envelope": ("Envelope",),
        "jetstream_bridge.events.event": (
            "Event",
            "Metadata",
        ),
        "jetstream_bridge.inbox.registry": ("Consumers",),
        "jetstream_bridge.nats.session": (
            "ClientFactory",
            "GuardedClient",
        ),
        "jetstream_bridge.operations.readiness": (
            "Check",
            "status_of",
        ),
        "jetstream_bridge.outbox.publish_batch": ("PublishBatch",),
        "jetstream_bridge.outbox.publish_result": (
            "BatchResult",
            "PublishResult",
        ),
        "jetstream_bridge.outbox.publisher": ("Publisher",),
    }.items()
    for name in names
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_WHERE[name]), name)
    return found
