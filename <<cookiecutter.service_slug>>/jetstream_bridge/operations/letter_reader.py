"""A service's dead letters as they are in the stream, read in either direction.

Reading consumes nothing. JetStream finds the next message of a subject and not the one before it,
and hands out one message for each request.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from datetime import datetime

from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.core.errors import NotFoundError, StreamMissingError
from jetstream_bridge.core.subjects import AppNames
from jetstream_bridge.events.dead_letter import DeadLetter, read_letter
from jetstream_bridge.events.event import Metadata
from jetstream_bridge.events.headers import parse_block
from jetstream_bridge.nats.management import Json, Requests, StreamApi

REQUEST_LIMIT = 2.0  # seconds for one answer of JetStream's
SPAN = 64  # sequences that are read at once at first, and letters at most
FEW = 16  # letters in a span, for the next one to be larger
SPAN_BYTES = 8 * 1024 * 1024  # of bodies in one span


class LetterReader:
    """Reads the letters of one service on the stream that it shares with others.

    `app` is a peer whose letters these are; None: this service's own.
    """

    def __init__(
        self, connection: Requests, config: BridgeConfig, *, app: str | None = None
    ) -> None:
        self.api = StreamApi(connection, limit=REQUEST_LIMIT)
        self.stream = config.stream
        self.names = config.names if app is None else AppNames(config.env, app)
        self.whose = "this service" if app is None else app
        self._subject = self.names.dead_letter

    async def get(self, sequence: int) -> DeadLetter:
        """Return the letter at `sequence`; raise `NotFoundError` if there is none of ours."""
        message = await self.api.message(self.stream, sequence)
        if message is None or message["subject"] != self._subject:
            raise NotFoundError(
                f"there is no dead letter {sequence} of {self.whose}; it may have been replayed, "
                "discarded, or have passed the stream's limits"
            )
        return self._read(message)

    async def info(self) -> Json:
        """Return the stream's info; `count_in` finds the number of letters in it."""
        info = await self.api.stream_info(self.stream, count=self._subject)
        if info is None:
            raise StreamMissingError(f"stream {self.stream} does not exist")
        return info

    def count_in(self, info: Json) -> int:
        return int((info["state"].get("subjects") or {}).get(self._subject, 0))

    async def forwards(self, after: int) -> AsyncIterator[DeadLetter]:
        """Yield the letters behind sequence `after`, oldest first: one request for each."""
        while True:
            message = await self.api.next_message(self.stream, self._subject, after=after)
            if message is None:
                return
            letter = self._read(message)
            yield letter
            after = letter.metadata.sequence

    async def backwards(self, before: int, first: int) -> AsyncIterator[DeadLetter]:
        """Yield the letters from `first` on that are before `before`, newest first.

        A span of sequences is read forwards and handed out backwards. Spans grow where letters are
        rare, so that what others have in the stream costs a request for each doubling, and
        shrink where too many are found. So a letter costs one or two requests.
        """
        span = SPAN
        while before > first:
            low = max(first, before - span)
            found = await self._between(low, before)
            if found is None:
                span = max(1, span // 16)
                continue
            for letter in reversed(found):
                yield letter
            before = low
            span = span * 2 if len(found) < FEW else span

    async def _between(self, low: int, high: int) -> list[DeadLetter] | None:
        """The letters from `low` to before `high`; None if they are too many to be held."""
        found: list[DeadLetter] = []
        size = 0
        async for letter in self.forwards(low - 1):
            if letter.metadata.sequence >= high:
                break
            found.append(letter)
            size += len(letter.body)
            if high - low > 1 and (len(found) > SPAN or size > SPAN_BYTES):
                return None
        return found

    def _read(self, message: Json) -> DeadLetter:
        headers = parse_block(base64.b64decode(message.get("hdrs") or ""))
        metadata = Metadata(
            subject=message["subject"],
            stream=self.stream,
            sequence=message["seq"],
            consumer="",
            deliveries=0,
            timestamp=datetime.fromisoformat(message["time"]),
            headers=headers,
        )
        return read_letter(base64.b64decode(message.get("data") or ""), headers, metadata)[0]
