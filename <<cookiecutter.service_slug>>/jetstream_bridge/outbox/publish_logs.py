"""The relay's line for an event: the same fields as the worker's.

What went well is logged at DEBUG only: the row in the outbox says as much, and a relay sends ten
thousand events in a second. The envelope is read only for a line that is written.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from typing import Literal

from jetstream_bridge.nats.outgoing import Outcome, Outgoing
from jetstream_bridge.outbox.rows import OutboxRow

logger = logging.getLogger(__name__)

Fate = Literal["published", "duplicate", "refused", "failed"]


def fields(message: Outgoing, row: OutboxRow, fate: Fate) -> dict[str, object]:
    """What a line says of an event, and never its payload."""
    envelope = _envelope(row.body)
    return {
        "event_id": row.event_id,
        "event_type": envelope.get("event_type"),
        "resource": row.resource,
        "trace_id": envelope.get("trace_id"),
        "subject": row.subject,
        "outcome": fate,
        "milliseconds": None if message.settled_at is None else round(message.took * 1000, 3),
    }


def log_sent(sent: Iterable[tuple[Outgoing, OutboxRow]]) -> None:
    """Log a line for each event that the stream has, where somebody wants to read that."""
    if not logger.isEnabledFor(logging.DEBUG):
        return
    for message, row in sent:
        if message.outcome is Outcome.STORED:
            fate: Fate = "duplicate" if message.duplicate else "published"
            logger.debug("event %s", fate, extra=fields(message, row, fate))


def _envelope(body: str) -> dict[str, object]:
    """What was refused need not be readable."""
    try:
        envelope = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return envelope if isinstance(envelope, dict) else {}
