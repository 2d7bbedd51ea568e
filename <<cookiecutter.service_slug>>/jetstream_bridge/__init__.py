"""Events over NATS JetStream: outbox, relay, inbox, consumers and topology of one service.

This package is not a service's own: a service does not edit it, an update replaces it.
A name is imported when it is asked for, so that a command that needs little starts quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jetstream_bridge.core.public_names import on_demand

if TYPE_CHECKING:
    from jetstream_bridge.bridge import Bridge
    from jetstream_bridge.core.config import BridgeConfig, ConnectionOptions
    from jetstream_bridge.core.delays import Backoff, Delays, Exponential, Linear, RetryStrategy
    from jetstream_bridge.core.errors import BridgeError, RegistrationError, Retry, Unrecoverable
    from jetstream_bridge.core.naming import SQLModel
    from jetstream_bridge.events.dead_letter import DeadLetter
    from jetstream_bridge.events.envelope import Envelope
    from jetstream_bridge.events.event import Event, Metadata
    from jetstream_bridge.inbox.registry import Consumers
    from jetstream_bridge.nats.client import GuardedClient
    from jetstream_bridge.nats.session import ClientFactory
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
    "RegistrationError",
    "Retry",
    "RetryStrategy",
    "SQLModel",
    "Unrecoverable",
    "__version__",
    "status_of",
]

__getattr__ = on_demand(
    __name__,
    {
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
            "RegistrationError",
            "Retry",
            "Unrecoverable",
        ),
        "jetstream_bridge.core.naming": ("SQLModel",),
        "jetstream_bridge.events.dead_letter": ("DeadLetter",),
        "jetstream_bridge.events.envelope": ("Envelope",),
        "jetstream_bridge.events.event": (
            "Event",
            "Metadata",
        ),
        "jetstream_bridge.inbox.registry": ("Consumers",),
        "jetstream_bridge.nats.client": ("GuardedClient",),
        "jetstream_bridge.nats.session": ("ClientFactory",),
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
    },
)
