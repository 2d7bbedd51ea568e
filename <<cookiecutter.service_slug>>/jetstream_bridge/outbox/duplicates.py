"""Whether the stream dropped a repetition, or another event that has the same id.

The stream compares ids, and nothing else: what two services publish under one id inside the
duplicate window is one message to it. Its answer names the message that it has, and that has to
be this very event. A work queue forgets what was consumed; then it counts whether a relay can have
sent this event before and not known it (see `unconfirmed`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import Collection, Iterable
from enum import Enum, auto

from nats.errors import Error as NatsError

from jetstream_bridge.core.errors import BridgeError
from jetstream_bridge.events.wire_rules import ID_HEADER
from jetstream_bridge.nats.management import Json, StreamApi
from jetstream_bridge.nats.outgoing import Outgoing
from jetstream_bridge.outbox.unconfirmed import UnconfirmedEvents

logger = logging.getLogger(__name__)

READERS = 16  # messages that are asked for at once
MOST = 1000  # in one call; more are taken for repetitions
LIMIT = 3.0  # seconds for all of them


class StoredMatch(Enum):
    """What stands where a duplicate acknowledgement points to."""

    SAME = auto()  # this very event, or nobody can tell
    OTHER = auto()  # another event
    GONE = auto()  # nothing any more


class Duplicates:
    """Looks at the messages that others were taken for."""

    def __init__(self, api: StreamApi, stream: str) -> None:
        self._api = api
        self._stream = stream

    async def look(self, messages: Collection[Outgoing], *, bodies: bool) -> dict[int, StoredMatch]:
        """Return what was found for each message, by its key; never raises, ends within `LIMIT`.

        A message that turns out to be another has an `error` that says so. Without `bodies` an
        event on the same subject is the same: its service said so by its id.
        """
        found = {message.key: StoredMatch.SAME for message in messages}
        problems: list[Exception] = []
        gate = asyncio.Semaphore(READERS)

        async def one(message: Outgoing) -> None:
            async with gate:
                try:
                    found[message.key] = await self._found(message, bodies=bodies)
                except (BridgeError, NatsError, OSError) as error:
                    problems.append(error)

        try:
            async with asyncio.timeout(LIMIT):
                await asyncio.gather(*map(one, list(messages)[:MOST]))
        except TimeoutError as error:
            problems.append(error)
        if problems:
            logger.warning(
                "duplicates were not compared with what is stored: %s",
                problems[0] or type(problems[0]).__name__,
            )
        return found

    async def dropped(
        self, messages: Iterable[Outgoing], unconfirmed: UnconfirmedEvents
    ) -> set[int]:
        """Return the keys of those messages that the stream dropped for another event.

        Of what is gone from the stream `unconfirmed` tells whether it can have been this very
        event, sent by a relay that could not write that down. If so, it is taken for a repetition.
        """
        repeated = [message for message in messages if message.duplicate]
        if not repeated:
            return set()
        found = await self.look(repeated, bodies=True)
        gone = [message for message in repeated if found[message.key] is StoredMatch.GONE]
        dropped = {key for key, what in found.items() if what is StoredMatch.OTHER}
        return dropped | await self._strangers(gone, unconfirmed)

    async def _strangers(
        self, gone: Collection[Outgoing], unconfirmed: UnconfirmedEvents
    ) -> set[int]:
        if not gone:
            return set()
        doubtful_from = await unconfirmed.doubtful_from()
        strangers = {
            message.key
            for message in gone
            if unconfirmed.is_new(message.key) and (message.seq or 0) <= doubtful_from
        }
        unclear = [message for message in gone if message.key not in strangers]
        for message in gone:
            message.error = (
                f"the stream had another event with this id, as number {message.seq}, which is "
                f"gone since, and dropped this one; {REMEDY}"
            )
        if unclear:
            logger.warning(
                "the stream took %d events, %s first, for repetitions of what is gone from it; "
                "nobody can compare them",
                len(unclear),
                unclear[0].headers.get(ID_HEADER),
            )
        return strangers

    async def _found(self, message: Outgoing, *, bodies: bool) -> StoredMatch:
        if message.seq is None:
            return StoredMatch.SAME
        stored = await self._api.message(self._stream, message.seq)
        if stored is None:
            return StoredMatch.GONE
        same_body = not bodies or _body(stored) == message.body
        if stored.get("subject") == message.subject and same_body:
            return StoredMatch.SAME
        message.error = (
            f"the stream has another event with this id, as number {message.seq} on "
            f"{stored.get('subject')!a}, and dropped this one; {REMEDY}"
        )
        return StoredMatch.OTHER


REMEDY = "give each event an id of its own, such as one made of the service, resource and version"


def _body(stored: Json) -> bytes | None:
    try:
        return base64.b64decode(stored.get("data") or "")
    except (binascii.Error, TypeError, ValueError):
        return None
