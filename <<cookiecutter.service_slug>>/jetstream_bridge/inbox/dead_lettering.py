"""Dead letters: events that cannot be handled, kept whole beside the reason.

A letter's body is the original body, byte for byte, and the original headers stay. Those that
speak to JetStream, and those that no client can write, are told in the letter's context only: a
`Nats-Rollup` said again would erase all other letters. The id is new,
`dlq:{stream}:{sequence}:{microseconds}`, the place of the original: its own one would be dropped
as a duplicate inside the stream's window and the letter lost; this one makes a second try of the
same letter a duplicate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from jetstream_bridge.core.error_report import CAUSED_BY, causes, class_of, message, raised_at
from jetstream_bridge.core.errors import PublishRefusedError, PublishUnavailableError
from jetstream_bridge.events.headers import carriable, left_behind
from jetstream_bridge.events.wire_rules import GEM_ID_HEADER, ID_HEADER
from jetstream_bridge.inbox.delivery import Delivery
from jetstream_bridge.inbox.reading import Rejection
from jetstream_bridge.nats.outgoing import Outcome, Outgoing
from jetstream_bridge.nats.publishing import AckPublisher

LETTER_ID = "dlq:"  # how the id of a letter begins
MAX_ERROR = 2048  # bytes of an error's text in a header, as escaped ASCII
MAX_LEFT_BEHIND = 2048  # bytes of the headers that are told in the context, as escaped ASCII
# What a letter says of itself: an original that was a letter before says it no more.
LETTER_HEADERS = frozenset({"x-dead-letter", "x-dlq-reason", "x-deliveries", "x-dlq-context"})


@dataclass(frozen=True, slots=True)
class DeadLetterWriter:
    """Writes the dead letters of one service to its own subject on the shared stream."""

    acks: AckPublisher
    subject: str

    async def write(self, delivery: Delivery, verdict: Rejection, consumer: str) -> None:
        """Store one letter; raise `PublishError` if the stream did not take it."""
        headers = letter_headers(delivery, verdict, consumer)
        message = Outgoing(0, self.subject, delivery.msg.data, headers)
        await self.acks.publish_one(message)
        if message.outcome is Outcome.STORED:
            return
        text = f"the dead letter of {delivery.key} was not stored: {message.error}"
        if message.outcome is Outcome.REFUSED:
            raise PublishRefusedError(text)
        if message.outcome is Outcome.UNROUTED:
            raise PublishUnavailableError(f"{text}; run `topology ensure` to add its subject")
        raise PublishUnavailableError(text)


def letter_headers(delivery: Delivery, verdict: Rejection, consumer: str) -> dict[str, str]:
    """Return the headers of a letter: the original ones that may travel on, and the reason."""
    headers = {
        name: value
        for name, value in carriable(delivery.headers).items()
        if name.lower() not in LETTER_HEADERS
    }
    stream = delivery.received.stream
    context: dict[str, object] = {
        "event_id": delivery.key,
        "reason": verdict.reason,
        "error_class": class_of(verdict.error),
        "error_message": error_text(verdict.error),
        "deliveries": delivery.tries,
        "original_subject": delivery.msg.subject,
        "sequence": delivery.seq,
        "consumer": consumer,
        "stream": stream,
        "published_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if at := raised_at(verdict.error):
        context["raised_at"] = at
    if told := _told(delivery.headers, key=delivery.key):
        context["headers"] = told
    return headers | {
        ID_HEADER: f"{LETTER_ID}{stream}:{delivery.metadata.place}",
        "x-dead-letter": "true",
        "x-dlq-reason": verdict.reason,
        "x-deliveries": str(delivery.tries),
        # ASCII, and no line breaks: JSON escapes both.
        "x-dlq-context": json.dumps(context, separators=(",", ":")),
    }


def _told(headers: Mapping[str, str], *, key: str) -> dict[str, str]:
    """The headers that stay behind, as far as there is room; the id is told as `event_id`."""
    told: dict[str, str] = {}
    room = MAX_LEFT_BEHIND
    for name, value in left_behind(headers).items():
        room -= len(json.dumps([name, value]))
        if room < 0:
            break
        if name.lower() != GEM_ID_HEADER or value != key:
            told[name] = value
    return told


def error_text(error: BaseException) -> str:
    """Return what an error and its causes say, each cut at its own end to what a header holds."""
    parts = [message(error), *causes(error)]
    whole = CAUSED_BY.join(parts)
    if len(json.dumps(whole)) <= MAX_ERROR:
        return whole
    share = MAX_ERROR // len(parts) - len(CAUSED_BY)
    return CAUSED_BY.join(_cut(part, share) for part in parts)


def _cut(text: str, room: int) -> str:
    if len(json.dumps(text)) <= room:
        return text
    text = text[:room]
    while len(json.dumps(text)) > room - 3:
        text = text[: len(text) * 9 // 10]
    return text + "..."
