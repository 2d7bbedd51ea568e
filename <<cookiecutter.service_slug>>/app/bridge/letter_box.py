"""A service's dead letters: read where they are, put back into the stream, or thrown away.

Reading consumes nothing. A replay stores the event on its original subject first and removes the
letter after that. A crash between the two leaves the letter, and its next replay is a duplicate:
the stream drops it inside its window, for the id is made from the letter's place, and the inbox
drops it at any time, for both replays carry the key of the original event.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from .acks import AckPublisher, Outcome, Outgoing
from .clock import loop_time
from .config import BridgeConfig
from .dead_letters import LETTER_ID
from .envelope import GEM_ID_HEADER, ID_HEADER, REPLAY_ID, REPLAY_KEY_HEADER, is_usable_id
from .errors import (
    InvalidSubjectError,
    NotFoundError,
    NotPossibleError,
    PublishRefusedError,
    PublishUnavailableError,
    StreamMissingError,
)
from .event import Metadata
from .letter import DeadLetter, read_letter
from .stream_api import Json, Requests, StreamApi
from .subjects import matches, validate_subject

REQUEST_LIMIT = 2.0  # seconds for one answer of JetStream's
PAGE_BYTES = 8 * 1024 * 1024  # of bodies in one page
# What a letter's headers have besides the original ones, and what a replay says anew.
_NOT_ORIGINAL = frozenset(
    {"x-dead-letter", "x-dlq-reason", "x-deliveries", "x-dlq-context"}
    | {GEM_ID_HEADER, REPLAY_KEY_HEADER}
)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters: those with this reason, of this event type; None means any."""

    reason: str | None = None
    event_type: str | None = None

    def takes(self, letter: DeadLetter) -> bool:
        event = letter.event
        types = () if event is None else (event.type, event.event_type)
        return (self.reason is None or letter.reason == self.reason) and (
            self.event_type is None or self.event_type in types
        )


@dataclass(frozen=True, slots=True)
class LetterPage:
    """Some letters, oldest first. `next` is the sequence to go on after, None at the end.

    A page ends early when it has become large, or when looking took its time.
    """

    items: list[DeadLetter]
    next: int | None


@dataclass(slots=True)
class Replayed:
    """What a replay of many did."""

    replayed: int = 0
    skipped: int = 0  # letters that cannot be replayed as they are
    more: bool = False  # there may be further ones: the limit or the time was used up


class LetterBox:
    """The dead letters of one service, on the stream that it shares with others."""

    def __init__(self, connection: Requests, acks: AckPublisher, config: BridgeConfig) -> None:
        self._api = StreamApi(connection, limit=REQUEST_LIMIT)
        self._acks = acks
        self._stream = config.stream
        self._subject = config.names.dead_letter
        # Where a letter of this service can have come from.
        self._origins = f"{config.env}.*.sync.{config.app_name}"

    async def get(self, sequence: int) -> DeadLetter:
        """Return the letter at `sequence`; raise `NotFoundError` if there is none of ours."""
        message = await self._api.message(self._stream, sequence)
        if message is None or message["subject"] != self._subject:
            raise NotFoundError(
                f"there is no dead letter {sequence} of this service; it may have been replayed, "
                "discarded, or have passed the stream's limits"
            )
        return self._read(message)

    async def count(self) -> int:
        """How many letters there are; one request, whatever their number."""
        info = await self._info()
        return int((info["state"].get("subjects") or {}).get(self._subject, 0))

    async def page(
        self,
        *,
        after: int = 0,
        limit: int = 50,
        choice: Choice | None = None,
        within: float = 5.0,
    ) -> LetterPage:
        """Return up to `limit` letters behind sequence `after`, in about `within` seconds.

        JetStream hands them out one by one, so a page costs a request for each letter.
        """
        choice = choice or Choice()
        deadline = loop_time() + within
        items: list[DeadLetter] = []
        size = 0
        async for letter in self._scan(after):
            if len(items) == limit or size >= PAGE_BYTES or loop_time() > deadline:
                return LetterPage(items, next=after)
            after = letter.metadata.sequence
            if choice.takes(letter):
                items.append(letter)
                size += len(letter.body)
        return LetterPage(items, next=None)

    async def replay(self, sequence: int) -> DeadLetter:
        """Put one letter's event back onto its original subject, then remove the letter.

        Raises `NotFoundError`, `NotPossibleError` when the letter does not tell where it came
        from, and `PublishError` when the stream did not take the event; the letter stays then.
        """
        letter = await self.get(sequence)
        await self._replay(letter)
        return letter

    async def replay_many(
        self,
        *,
        limit: int,
        choice: Choice | None = None,
        rate: float | None = None,
        dry_run: bool = False,
        within: float | None = None,
        on_letter: Callable[[DeadLetter], None] | None = None,
    ) -> Replayed:
        """Replay up to `limit` of the letters that are there now, oldest first.

        `rate` is the most in one second, `within` the seconds that it may take; `dry_run` counts
        and changes nothing. Letters that come back meanwhile are left for the next time. What
        NATS does not take in raises, and `on_letter` has been called for each that was replayed.
        """
        choice = choice or Choice()
        last = int((await self._info())["state"]["last_seq"])
        deadline = None if within is None else loop_time() + within
        done = Replayed()
        async for letter in self._scan(0):
            if letter.metadata.sequence > last:
                break
            if not choice.takes(letter):
                continue
            if self.obstacle(letter) is not None:
                done.skipped += 1
                continue
            pause = 1 / rate if rate is not None and done.replayed and not dry_run else 0.0
            late = deadline is not None and loop_time() + pause > deadline
            if done.replayed == limit or late:
                done.more = True
                break
            if not dry_run:
                await asyncio.sleep(pause)
                await self._replay(letter)
            done.replayed += 1
            if on_letter is not None:
                on_letter(letter)
        return done

    async def discard(self, sequence: int) -> None:
        """Remove one letter for good; raise `NotFoundError` if it is not there."""
        letter = await self.get(sequence)
        if not await self._api.delete_message(self._stream, letter.metadata.sequence):
            raise NotFoundError(f"dead letter {sequence} was removed by somebody else just now")

    async def _scan(self, after: int) -> AsyncIterator[DeadLetter]:
        while True:
            message = await self._api.next_message(self._stream, self._subject, after=after)
            if message is None:
                return
            letter = self._read(message)
            yield letter
            after = letter.metadata.sequence

    async def _info(self) -> Json:
        info = await self._api.stream_info(self._stream, count=self._subject)
        if info is None:
            raise StreamMissingError(f"stream {self._stream} does not exist")
        return info

    def _read(self, message: Json) -> DeadLetter:
        headers = read_headers(base64.b64decode(message.get("hdrs") or ""))
        metadata = Metadata(
            subject=message["subject"],
            stream=self._stream,
            sequence=message["seq"],
            consumer="",
            deliveries=0,
            timestamp=datetime.fromisoformat(message["time"]),
            headers=headers,
        )
        return read_letter(base64.b64decode(message.get("data") or ""), headers, metadata)[0]

    async def _replay(self, letter: DeadLetter) -> None:
        problem = self.obstacle(letter)
        if problem is not None:
            raise NotPossibleError(problem)
        sequence = letter.metadata.sequence
        await replay_event(
            self._acks,
            letter.original_subject,
            letter.body,
            letter.metadata.headers,
            key=original_key(letter),
            place=f"{self._stream}:{sequence}",
        )
        await self._api.delete_message(self._stream, sequence)

    def obstacle(self, letter: DeadLetter) -> str | None:
        """Say why a letter cannot be replayed as it is."""
        named = f"dead letter {letter.metadata.sequence}"
        subject = letter.original_subject
        if not subject:
            return (
                f"{named} does not tell its original subject (x-dlq-context); publish its body by "
                "hand, then discard it"
            )
        try:
            validate_subject(subject)
        except InvalidSubjectError as error:
            return f"{named} cannot go back: {error}; publish its body by hand, then discard it"
        if not matches(self._origins, subject):
            return (
                f"{named} came from {subject}, which this service does not read "
                f"({self._origins}); publish its body by hand, then discard it"
            )
        return None


def read_headers(block: bytes) -> dict[str, str]:
    """Read a NATS header block: `NATS/1.0`, then a line for each header."""
    lines = block.decode("utf-8", "replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name: value.strip() for name, _, value in pairs}


def original_key(letter: DeadLetter) -> str | None:
    """Return the receiver's key of the event: its own id header, which a peer's letter keeps.

    A letter of ours has the key in its context. A peer's context may hold a random id instead, so
    without a header the envelope's own id comes before it.
    """
    headers = letter.metadata.headers
    ids = [value for name, value in headers.items() if name.lower() == GEM_ID_HEADER]
    foreign = [value for value in ids if not value.startswith(LETTER_ID)]
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
) -> None:
    """Store an event again under an id made from `place`; `key` is the receiver's key of it.

    Raises `PublishError` unless the expected stream has it.
    """
    kept = {name: value for name, value in headers.items() if name.lower() not in _NOT_ORIGINAL}
    kept[ID_HEADER] = REPLAY_ID + place
    if key is not None:
        kept[REPLAY_KEY_HEADER] = json.dumps(key)
    message = await acks.publish_one(Outgoing(0, subject, body, kept))
    if message.outcome is Outcome.STORED:
        return
    text = f"the event was not replayed onto {subject}: {message.error}"
    if message.outcome is Outcome.REFUSED:
        raise PublishRefusedError(text)
    raise PublishUnavailableError(text)
