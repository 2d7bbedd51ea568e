"""Which durable consumer reads what: one for each source, and one for the dead letters.

On a work queue no two consumers may read the same subject, and all events of one source travel on
one subject. So a source has exactly one durable, and whatever belongs to the durable (its name,
`ack_wait`) is the same for every handler of that source.
"""

from __future__ import annotations

from dataclasses import dataclass

from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.core.subjects import DEAD_LETTER_TOKEN

# In the place of a source. No application can have this name.
DEAD_LETTERS = DEAD_LETTER_TOKEN


@dataclass(frozen=True, slots=True)
class DurableSpec:
    """One durable consumer as this service needs it. `ack_wait` is in seconds."""

    source: str | None  # None: the default destination
    name: str
    subject: str
    ack_wait: float


def durable_spec(
    config: BridgeConfig,
    source: str | None,
    *,
    name: str | None = None,
    ack_wait: float | None = None,
) -> DurableSpec:
    """Return the durable for `source`, with the wire format's name unless another is given."""
    names = config.names
    if source == DEAD_LETTERS:
        default, subject = names.dead_letter_durable, names.dead_letter
    else:
        default = names.durable(source)
        subject = names.subscribe(source or config.destination_app)
    return DurableSpec(source, name or default, subject, ack_wait or config.ack_wait)
