"""All that a stream holds, in its order; with `limits` retention, all that it ever stored."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig

_PORTION = 500  # messages


@dataclass(frozen=True, slots=True)
class Stored:
    """One message of a stream."""

    sequence: int
    subject: str
    headers: dict[str, str]
    body: bytes

    @property
    def event_id(self) -> str:
        return self.headers.get("Nats-Msg-Id", "")

    @property
    def envelope(self) -> dict[str, Any]:
        """The event that the message tells of."""
        found: dict[str, Any] = json.loads(self.body)
        return found


async def history(js: JetStreamContext, stream: str) -> list[Stored]:
    """Read every message of `stream`, oldest first."""
    last = (await js.stream_info(stream)).state.last_seq
    config = ConsumerConfig(ack_policy=AckPolicy.NONE)
    reader = await js.pull_subscribe(">", stream=stream, config=config)
    found: list[Stored] = []
    while not found or found[-1].sequence < last:
        try:
            messages = await reader.fetch(_PORTION, timeout=5)
        except NatsTimeoutError:
            break
        found.extend(
            Stored(m.metadata.sequence.stream, m.subject, m.headers or {}, m.data) for m in messages
        )
    await reader.unsubscribe()
    return found
