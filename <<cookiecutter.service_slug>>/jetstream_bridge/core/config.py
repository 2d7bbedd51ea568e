"""What the bridge is told at start: plain values, already validated, never read from outside.

Times are seconds, sizes are bytes. The service's settings build these objects; nothing in the
bridge looks at the environment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jetstream_bridge.core.delays import Exponential, RetryStrategy
from jetstream_bridge.core.errors import Unrecoverable
from jetstream_bridge.core.subjects import AppNames

# Tries at 0, 0.25, 0.75 and 1.75 s: enough for a reconnect, and short for who waits.
PUBLISH_RETRY = Exponential(base=0.25, cap=2.0, attempts=4)

Retention = Literal["workqueue", "limits"]
Unhandled = Literal["ack", "dead_letter"]
FutureSchema = Literal["handle", "dead_letter"]


@dataclass(frozen=True, kw_only=True)
class ConnectionOptions:
    """Where NATS is and how to log in. Secrets never show in `repr`."""

    urls: tuple[str, ...] = field(default=("nats://localhost:4222",), repr=False)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    creds_file: str | None = None
    nkey_file: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class BridgeConfig:
    """Everything the bridge needs to know about its service."""

    app_name: str
    destination_app: str
    env: str = "development"
    connection: ConnectionOptions = field(default_factory=ConnectionOptions)

    stream_name: str | None = None  # None: derived from `env`
    stream_replicas: int = 1
    duplicate_window: float = 120.0  # seconds
    retention: Retention = "workqueue"
    max_age: float | None = None  # seconds; None: unlimited
    max_bytes: int | None = None  # None: unlimited
    auto_provision: bool = True
    gem_peer: bool = False

    use_outbox: bool = True
    use_inbox: bool = True
    use_dlq: bool = True

    # Whether other processes can tell this one of new rows; a pooler passes no LISTEN on.
    relay_listens: bool = True
    relay_batch_size: int = 1000
    relay_batch_bytes: int = 16 * 1024 * 1024
    outbox_max_attempts: int = 10
    outbox_retention: float = 7 * 86400.0  # seconds

    max_deliver: int = 5
    ack_wait: float = 30.0  # seconds
    backoff: tuple[float, ...] = (1.0, 5.0, 15.0, 30.0, 60.0)  # seconds
    # Messages out at once on one durable, all its workers together. Well above what a worker
    # holds, so that the followers of an event in retry do not stop the others.
    max_ack_pending: int = 10_000
    worker_batch_size: int = 200
    worker_concurrency: int = 8
    # Of the messages that one durable's worker holds; once read, a message takes some times more.
    worker_max_bytes: int = 64 * 1024 * 1024
    worker_exclusive: bool = False
    handler_timeout: float | None = 300.0  # seconds for one run; None: as long as it takes
    unhandled: Unhandled = "ack"
    # An event whose schema version is higher than any that its handler is known to read.
    future_schema: FutureSchema = "handle"
    # What a handler raises when no other try can help; everything else is tried again.
    unrecoverable: tuple[type[Exception], ...] = (Unrecoverable,)
    inbox_retention: float = 30 * 86400.0  # seconds

    publish_timeout: float = 5.0  # seconds for one PubAck
    # Sending without the outbox: when to try again, and the seconds for all tries together.
    publish_retry: RetryStrategy = PUBLISH_RETRY
    publish_limit: float = 15.0
    shutdown_grace: float = 20.0  # seconds
    # An API whose events wait in the outbox is ready without NATS, unless this says otherwise.
    ready_requires_nats: bool = False

    @property
    def names(self) -> AppNames:
        return AppNames(env=self.env, app=self.app_name)

    @property
    def stream(self) -> str:
        return self.names.stream(self.stream_name)
