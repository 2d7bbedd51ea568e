"""Nothing is published a second time before it is known whether the stream has it.

A relay keeps a note in the database while it publishes (see `relay_notes`) and remembers what it
could not write down. What it knows it writes as soon as the database is back. What nobody knows,
be it that a relay died or that an answer never came, is looked for in the stream: the messages
behind the note's sequence tell which rows are sent. A work queue has forgotten what was consumed
meanwhile; that the receiver's inbox knows.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import uuid
from collections.abc import Iterable
from math import inf

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.errors import PermissionDeniedError
from jetstream_bridge.events.headers import parse_block
from jetstream_bridge.events.wire_rules import GEM_ID_HEADER, event_id_flaw, sending_flaw
from jetstream_bridge.nats.management import Json, StreamApi
from jetstream_bridge.outbox.relay_notes import Note, RelayNotes

logger = logging.getLogger(__name__)

LEAST_WINDOW = 0.1  # seconds; the server's least one
MOST_SUBJECTS = 20  # in a note; a relay with more of them looks through all
READERS = 32  # messages that are asked for at once
PORTION = 64  # sequences that one reader goes through
RESOLVE_LIMIT = 20.0  # seconds for one look; the next one goes on where it ended


class UnconfirmedEvents:
    """What one relay does not know, and its note for the others."""

    def __init__(self, notes: RelayNotes, api: StreamApi, stream: str, *, window: float) -> None:
        """`window`: seconds for which the stream will know an id, where there is none yet."""
        self.holder = uuid.uuid4().hex
        self._notes = notes
        self._api = api
        self._stream = stream
        self._window = window
        self._subjects: frozenset[str] = frozenset()  # of the note
        self._renew_at = inf  # by the loop's clock; never, without a note
        self._may_look = False  # into the stream: it was tried
        self._published = False  # since the note was written
        self._unknown: set[int] = set()  # rows that may be in the stream
        self._in_hand: set[int] = set()  # rows that are published now for the first time
        self._unsettled: set[int] = set()  # rows that are in the stream, and could not be marked
        # Until then, by the loop's clock, the stream may know ids of a relay that is no more.
        self._aftermath = -inf

    @property
    def _clean(self) -> bool:
        return not self._unknown and not self._unsettled

    async def catch_up(self) -> None:
        """Write what could not be written when it was known; renew the note in time.

        Raises what the database and NATS raise.
        """
        if self._unsettled:
            await self._notes.settle(list(self._unsettled))
            self._unknown -= self._unsettled
            self._unsettled.clear()
        if loop_time() < self._renew_at or not self._clean:
            return
        if self._published:
            await self._write(self._subjects)
        else:
            await self.forget()

    async def forget(self) -> None:
        """Drop the note, when the relay is idle or at its end, if nothing is in doubt."""
        if self._renew_at < inf and self._clean:
            await self._notes.drop(self.holder)
            self._renew_at = inf

    def allow(self, subjects: Iterable[str], *, noted: bool) -> bool:
        """Whether the note is there and covers these subjects; else `note` has to come first."""
        if not noted:  # or somebody looked for what it was about
            self._renew_at = inf
            self._unknown.clear()
            return False
        if self._renew_at == inf:
            return False
        return self._subjects >= _sendable(subjects) or ">" in self._subjects

    async def note(self, subjects: Iterable[str]) -> None:
        """Write the note before the first message on any of `subjects` is sent."""
        if self._renew_at == inf:
            await self._write(_sendable(subjects))
        elif self._clean:
            await self._write(self._subjects | _sendable(subjects))
        else:  # it tells where to look for what is in doubt
            wider = _bounded(self._subjects | _sendable(subjects))
            await self._notes.widen(self.holder, sorted(wider))
            self._subjects = wider

    async def _write(self, subjects: frozenset[str]) -> None:
        subjects = _bounded(subjects)
        began = loop_time()
        info = await self._info()
        window = self._window_of(info)
        created, _, last = _state(info)
        if not self._may_look:
            await self._check_reading()
        note = Note(self.holder, created, last, tuple(sorted(subjects)))
        await self._notes.write(note, lasts=window / 2)
        self._subjects = subjects
        self._renew_at = began + window / 4
        self._published = False

    def _window_of(self, info: Json | None) -> float:
        nanoseconds = (info or {}).get("config", {}).get("duplicate_window") or 0
        self._window = max(LEAST_WINDOW, nanoseconds / 1e9 or self._window)
        return self._window

    async def _check_reading(self) -> None:
        """Let readiness name a missing right before it is needed."""
        with contextlib.suppress(PermissionDeniedError):
            await self._api.check_reading(self._stream)
            self._may_look = True

    async def _info(self) -> Json | None:
        try:
            return await self._api.stream_info(self._stream)
        except PermissionDeniedError:
            return None  # readiness names the right; all of the stream would be looked through

    def sending(self, rows: Iterable[int]) -> None:
        """These rows are about to be published: from now on nobody knows."""
        self._published = True
        self._in_hand = set(rows) - self._unknown
        self._unknown |= self._in_hand

    def is_new(self, row: int) -> bool:
        """Whether this relay has certainly not published the row before the last `sending`."""
        return row in self._in_hand

    async def doubtful_from(self) -> float:
        """Return the sequence behind which other relays may have published what looks unsent.

        What stands before it was not put there by a relay that could not write it down.
        """
        if loop_time() < self._aftermath:
            return 0
        lowest = await self._notes.others(self.holder)
        return inf if lowest is None else lowest

    def answered(self, sent: Iterable[int], unknown: Iterable[int]) -> None:
        """The answers are there: these rows are sent, of those nobody knows; the others are not.

        What was unknown before stays so until it is sent.
        """
        self._unknown -= self._in_hand.difference(unknown)
        self._unknown.difference_update(sent)
        self._unsettled.update(sent)

    def settled(self) -> None:
        """What was sent is marked, and committed."""
        self._unsettled.clear()

    async def resolve(self) -> bool:
        """Look through the stream for what ran out, and mark what is there; True when done."""
        deadline = loop_time() + RESOLVE_LIMIT
        self._aftermath = loop_time() + self._window  # what was consumed is not found
        for note in await self._notes.stale():
            if not await self._look(note, deadline):
                return False
            await self._notes.drop(note.holder)
            if note.holder == self.holder:
                self._unknown.clear()
                self._renew_at = inf
        return True

    async def _look(self, note: Note, deadline: float) -> bool:
        info = await self._api.stream_info(self._stream)
        created, first, last = _state(info)
        reached = note.sequence if created == note.stream_created else 0
        note = Note(note.holder, created, reached, note.subjects)
        reached = max(reached, first - 1)
        rows = 0
        while reached < last and loop_time() < deadline:
            until = min(last, reached + READERS * PORTION)
            ids = await self._ids(note.subjects, reached, until)
            rows += await self._notes.found(note, ids, reached=until)
            reached = until if ids else await self._next(note.subjects, until, last)
        if rows:
            logger.warning("%d events were in the stream already, and are marked as sent", rows)
        return reached >= last

    async def _next(self, subjects: Iterable[str], after: int, last: int) -> int:
        """The sequence before the next message of interest: a stream may have long gaps."""
        found = [
            await self._api.next_message(self._stream, subject, after=after) for subject in subjects
        ]
        return min((message["seq"] - 1 for message in found if message is not None), default=last)

    async def _ids(self, subjects: Iterable[str], after: int, until: int) -> list[str]:
        """The ids of the messages on `subjects` between two sequences."""
        portions = [
            self._read(subject, start, min(until, start + PORTION))
            for subject in subjects
            for start in range(after, until, PORTION)
        ]
        found: list[str] = []
        for begin in range(0, len(portions), READERS):
            for ids in await asyncio.gather(*portions[begin : begin + READERS]):
                found += ids
        return found

    async def _read(self, subject: str, after: int, until: int) -> list[str]:
        found: list[str] = []
        while after < until:
            message = await self._api.next_message(self._stream, subject, after=after)
            if message is None or message["seq"] > until:
                break
            after = message["seq"]
            headers = parse_block(base64.b64decode(message.get("hdrs") or ""))
            ids = [value for name, value in headers.items() if name.lower() == GEM_ID_HEADER]
            found += [value for value in ids if event_id_flaw(value) is None]
        return found


def _sendable(subjects: Iterable[str]) -> frozenset[str]:
    """Leave out those of rows that are refused unsent: nobody can ask for them either."""
    return frozenset(subject for subject in subjects if sending_flaw(subject, {}) is None)


def _bounded(subjects: frozenset[str]) -> frozenset[str]:
    return subjects if len(subjects) <= MOST_SUBJECTS else frozenset({">"})


def _state(info: Json | None) -> tuple[str, int, int]:
    """A stream's birth, and its first and last sequence; nothing where there is none."""
    if info is None:
        return "", 1, 0
    state = info["state"]
    return str(info.get("created") or "")[:64], int(state["first_seq"]), int(state["last_seq"])
