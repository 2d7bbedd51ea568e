"""Dead letters: events that cannot be handled, kept whole beside the reason.

A letter's body is the original body, byte for byte, and the original headers stay. Only the id
is new: `dlq:{stream}:{sequence}`. The original one would be dropped as a duplicate inside the
stream's window and the letter lost; this one makes a second try of the same letter a duplicate.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from .acks import AckPublisher, Outcome, Outgoing
from .deliveries import Delivery
from .envelope import GEM_ID_HEADER, ID_HEADER
from .errors import PublishRefusedError, PublishUnavailableError
from .reading import Verdict

LETTER_ID = "dlq:"  # how the id of a letter begins
MAX_ERROR = 2048  # bytes of an error's text in a header, as escaped ASCII


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Writes the dead letters of one service to its own subject on the shared stream."""

    acks: AckPublisher
    subject: str

    async def write(self, delivery: Delivery, verdict: Verdict, consumer: str) -> None:
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


def letter_headers(delivery: Delivery, verdict: Verdict, consumer: str) -> dict[str, str]:
    """Return the headers of a letter: the original ones, the id excepted, and the reason."""
    headers = {
        name: value for name, value in delivery.headers.items() if name.lower() != GEM_ID_HEADER
    }
    stream = delivery.received.stream
    context = {
        "event_id": delivery.key,
        "reason": verdict.reason,
        "error_class": type(verdict.error).__name__,
        "error_message": error_text(verdict.error),
        "deliveries": delivery.tries,
        "original_subject": delivery.msg.subject,
        "sequence": delivery.seq,
        "consumer": consumer,
        "stream": stream,
        "published_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return headers | {
        ID_HEADER: f"{LETTER_ID}{stream}:{delivery.seq}",
        "x-dead-letter": "true",
        "x-dlq-reason": verdict.reason,
        "x-deliveries": str(delivery.tries),
        # ASCII, and no line breaks: JSON escapes both.
        "x-dlq-context": json.dumps(context, separators=(",", ":")),
    }


def error_text(error: BaseException) -> str:
    """Return what an error says, cut to what a header may hold of it."""
    text = str(error) or type(error).__name__
    if len(json.dumps(text)) <= MAX_ERROR:
        return text
    text = text[:MAX_ERROR]
    while len(json.dumps(text)) > MAX_ERROR - 3:
        text = text[: len(text) * 9 // 10]
    return text + "..."
