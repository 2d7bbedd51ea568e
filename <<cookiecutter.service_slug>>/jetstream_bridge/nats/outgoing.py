"""One message on its way to the stream, and what may become of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import Enum, auto
from typing import TYPE_CHECKING

from nats.errors import BadHeaderError, BadSubjectError, MaxPayloadError
from nats.errors import Error as NatsError

from jetstream_bridge.events.headers import write_block
from jetstream_bridge.events.wire_rules import sending_flaw

if TYPE_CHECKING:
    from jetstream_bridge.nats.publish_call import PublishCall

logger = logging.getLogger(__name__)


# Error codes of the server that speak of its state and not of the message: retention limits
# reached, no room, no leader, an id that another publish is storing right now.
_TRANSIENT_CODES = frozenset({10002, 10008, 10023, 10077, 10122, 10158})


class Outcome(Enum):
    """What became of one message."""

    STORED = auto()  # in the stream, now or by an earlier try
    REFUSED = auto()  # the server will never take this message as it is
    UNROUTED = auto()  # no stream listens on the subject, or JetStream is away
    UNAVAILABLE = auto()  # the server cannot take any message now
    UNKNOWN = auto()  # sent, and no answer came in time
    NOT_SENT = auto()  # there was no connection


# After these nothing more is sent in the same call: the fault is not the message's.
OUTAGES = frozenset({Outcome.UNAVAILABLE, Outcome.UNKNOWN, Outcome.NOT_SENT})


class Outgoing:
    """One message, and what became of it. `outcome` stays None when it was never its turn.

    `flaw` says why it cannot be sent, where that is known already; it is refused in its turn.
    `block` is `headers` as they travel, where whoever made them has checked them and the subject.
    """

    __slots__ = (
        *("block", "body", "call", "duplicate", "error", "flaw", "following", "headers", "key"),
        *("outcome", "sent_at", "seq", "settled_at", "subject", "took"),
    )

    def __init__(
        self,
        key: int,
        subject: str,
        body: bytes,
        headers: dict[str, str],
        *,
        flaw: str | None = None,
        block: bytes | None = None,
    ) -> None:
        self.key = key
        self.flaw = flaw
        self.subject = subject
        self.body = body
        self.headers = headers
        self.block = block
        self.outcome: Outcome | None = None
        self.error: str | None = None
        self.seq: int | None = None
        self.duplicate = False
        self.took = 0.0  # seconds from sending to the answer
        self.settled_at: float | None = None  # by the loop's clock; None: it was not sent
        # While it is published: the call it belongs to, and what is sent when this one is stored.
        self.call: PublishCall | None = None
        self.following: Outgoing | None = None
        self.sent_at = 0.0

    @property
    def may_be_stored(self) -> bool:
        """Whether the stream may have it, and nobody knows."""
        unsure = self.outcome is Outcome.NOT_SENT and self.settled_at is not None
        return unsure or self.outcome is Outcome.UNKNOWN


def flaw_of(message: Outgoing, max_payload: int) -> str | None:
    """What the client cannot send, or the server would close the connection for; with none,
    `message.block` is there."""
    if message.flaw is not None:
        return message.flaw
    if message.block is None:
        flaw = sending_flaw(message.subject, message.headers)
        if flaw is not None:
            return flaw
        message.block = write_block(message.headers)
    size = len(message.body) + len(message.block)
    if size <= max_payload:
        return None
    return (
        f"the event has {size} bytes with its headers; the server takes {max_payload} (max_payload)"
    )


def describe(error: Exception) -> str:
    """Why a message could not be sent."""
    return f"could not be sent: {error or type(error).__name__}"


def unsent(error: Exception, *, connected: bool) -> Outcome:
    """Whose fault it is that nats-py did not send: the message's, or the connection's."""
    if isinstance(error, BadSubjectError | BadHeaderError | MaxPayloadError):
        return Outcome.REFUSED
    if isinstance(error, NatsError | OSError) or not connected:
        return Outcome.NOT_SENT
    logger.error("nats-py failed to send a message", exc_info=error)
    return Outcome.REFUSED


def read_error(message: Outgoing, error: Mapping[str, object]) -> Outcome:
    code, err_code = error.get("code"), error.get("err_code")
    message.error = f"{error.get('description')} (error {err_code})"
    if err_code in _TRANSIENT_CODES or not isinstance(code, int) or code >= 500:
        return Outcome.UNAVAILABLE
    return Outcome.REFUSED
