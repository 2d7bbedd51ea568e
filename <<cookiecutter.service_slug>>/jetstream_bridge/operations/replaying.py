"""An event is stored again on its subject, under the key by which its receiver knows it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from jetstream_bridge.core.errors import PublishRefusedError, PublishUnavailableError
from jetstream_bridge.events.dead_letter import DeadLetter
from jetstream_bridge.events.headers import carriable
from jetstream_bridge.events.received_envelope import is_usable_id, replayed_key
from jetstream_bridge.events.wire_rules import (
    GEM_ID_HEADER,
    ID_HEADER,
    REPLAY_ID,
    REPLAY_KEY_HEADER,
)
from jetstream_bridge.inbox.dead_lettering import LETTER_HEADERS, LETTER_ID
from jetstream_bridge.nats.outgoing import Outcome, Outgoing
from jetstream_bridge.nats.publishing import AckPublisher

# What a letter's headers have besides the original ones, and what a replay says anew.
_NOT_ORIGINAL = LETTER_HEADERS | {REPLAY_KEY_HEADER}


def original_key(letter: DeadLetter) -> str | None:
    """Return the receiver's key of the event: its own id header, which a peer's letter keeps.

    A letter of ours has the key in its context. A peer's context may hold a random id instead, so
    without a header the envelope's own id comes before it.
    """
    headers = letter.metadata.headers
    ids = [value for name, value in headers.items() if name.lower() == GEM_ID_HEADER]
    foreign = [
        replayed_key(headers, value) if value.startswith(REPLAY_ID) else value
        for value in ids
        if not value.startswith(LETTER_ID)
    ]
    envelope = letter.event.event_id if letter.event is not None else None
    ours = len(foreign) < len(ids)
    last = (letter.event_id, envelope) if ours else (envelope, letter.event_id)
    return next((key for key in (*foreign, *last) if is_usable_id(key)), None)


async def replay_event(
    acks: AckPublisher,
    subject: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    key: str | None,
    place: str,
    id_header: str = ID_HEADER,
) -> None:
    """Store an event again under an id made from `place`; `key` is the receiver's key of it.

    Headers that speak to JetStream do not come back: what they asked for was done, or refused,
    when the event was first stored. Raises `PublishError` unless the expected stream has it.
    """
    kept = {
        name: value
        for name, value in carriable(headers).items()
        if name.lower() not in _NOT_ORIGINAL
    }
    kept[id_header] = REPLAY_ID + place
    if key is not None:
        kept[REPLAY_KEY_HEADER] = json.dumps(key)
    message = await acks.publish_one(Outgoing(0, subject, body, kept))
    if message.outcome is Outcome.STORED:
        return
    text = f"the event was not replayed onto {subject}: {message.error}"
    if message.outcome is Outcome.REFUSED:
        raise PublishRefusedError(text)
    raise PublishUnavailableError(text)
