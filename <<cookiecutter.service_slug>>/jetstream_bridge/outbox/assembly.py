"""A relay of the parts that its service's configuration and database ask for."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.core.delays import Backoff
from jetstream_bridge.nats.connection import Connection
from jetstream_bridge.nats.management import StreamApi
from jetstream_bridge.nats.publishing import AckPublisher
from jetstream_bridge.outbox.claims import lanes_of
from jetstream_bridge.outbox.duplicates import Duplicates
from jetstream_bridge.outbox.maintenance import OutboxMaintenance
from jetstream_bridge.outbox.relay import ROUND_LIMIT, Relay
from jetstream_bridge.outbox.relay_notes import RelayNotes
from jetstream_bridge.outbox.rounds import RelayRounds, RelaySettings
from jetstream_bridge.outbox.unconfirmed import UnconfirmedEvents
from jetstream_bridge.topology.subject_index import SubjectIndex


def make_relay(
    config: BridgeConfig,
    engine: AsyncEngine,
    connection: Connection,
    publisher: AckPublisher,
    duplicates: Duplicates,
    maintenance: OutboxMaintenance,
    routes: SubjectIndex,
) -> Relay:
    """Return the relay of one process. On SQLite one claim works at a time, as one transaction
    writes at a time."""
    settings = RelaySettings(
        batch_size=config.relay_batch_size,
        batch_bytes=config.relay_batch_bytes,
        max_attempts=config.outbox_max_attempts,
        backoff=Backoff(config.backoff),
        retention=config.outbox_retention,
        gem_peer=config.gem_peer,
    )

    def rounds() -> RelayRounds:
        notes, api = RelayNotes(engine), StreamApi(connection)
        unconfirmed = UnconfirmedEvents(notes, api, config.stream, window=config.duplicate_window)
        lanes = lanes_of(engine, transaction_limit=ROUND_LIMIT)
        return RelayRounds(lanes, unconfirmed, publisher, duplicates, settings, routes=routes.open)

    second = rounds() if engine.dialect.name == "postgresql" else None
    return Relay(rounds(), second, maintenance, connection, settings)
