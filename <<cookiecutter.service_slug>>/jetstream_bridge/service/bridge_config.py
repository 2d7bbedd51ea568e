"""What the bridge is told of the settings."""

from __future__ import annotations

from pydantic import SecretStr

from jetstream_bridge.core.config import BridgeConfig, ConnectionOptions
from jetstream_bridge.service.settings import BridgeSettings


def bridge_config(settings: BridgeSettings) -> BridgeConfig:
    """Return what the bridge needs of `settings`."""
    return BridgeConfig(
        app_name=settings.app_name,
        destination_app=settings.destination_app,
        env=settings.nats_env,
        connection=connection_options(settings),
        stream_name=settings.nats_stream,
        stream_replicas=settings.nats_stream_replicas,
        duplicate_window=settings.nats_duplicate_window,
        retention=settings.nats_retention,
        max_age=settings.nats_max_age,
        max_bytes=settings.nats_max_bytes,
        auto_provision=settings.auto_provision,
        gem_peer=settings.gem_peer,
        use_outbox=settings.use_outbox,
        use_inbox=settings.use_inbox,
        use_dlq=settings.use_dlq,
        relay_listens=not settings.database_is_pooled,
        relay_batch_size=settings.relay_batch_size,
        relay_batch_bytes=settings.relay_batch_bytes,
        outbox_max_attempts=settings.outbox_max_attempts,
        outbox_retention=settings.outbox_retention,
        max_deliver=settings.max_deliver,
        ack_wait=settings.ack_wait,
        backoff=settings.backoff,
        worker_batch_size=settings.worker_batch_size,
        worker_concurrency=settings.worker_concurrency,
        worker_max_bytes=settings.worker_max_bytes,
        max_ack_pending=settings.max_ack_pending,
        worker_exclusive=settings.worker_exclusive,
        handler_timeout=settings.handler_timeout,
        unhandled=settings.unhandled,
        future_schema=settings.future_schema,
        inbox_retention=settings.inbox_retention,
        shutdown_grace=settings.shutdown_grace,
        ready_requires_nats=settings.ready_requires_nats,
    )


def connection_options(settings: BridgeSettings) -> ConnectionOptions:
    return ConnectionOptions(
        urls=settings.nats_addresses,
        user=settings.nats_user,
        password=_plain(settings.nats_password),
        token=_plain(settings.nats_token),
        creds_file=settings.nats_creds_file,
        nkey_file=settings.nats_nkey_file,
        tls_ca=settings.nats_tls_ca,
        tls_cert=settings.nats_tls_cert,
        tls_key=settings.nats_tls_key,
    )


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
