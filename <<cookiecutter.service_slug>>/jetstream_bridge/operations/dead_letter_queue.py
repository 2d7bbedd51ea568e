"""Dead letters of a service or of a peer: read where they are, put back, or thrown away.

Reading consumes nothing. A replay stores the event on its original subject first and removes the
letter after that. A crash between the two leaves the letter, and its next replay is a duplicate:
the stream drops it inside its window, for the id is made from the letter's place, and the inbox
drops it at any time, for both replays carry the key of the original event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.config import BridgeConfig
from jetstream_bridge.core.errors import (
    InvalidSubjectError,
    NotFoundError,
    NotPossibleError,
)
from jetstream_bridge.core.subjects import matches, validate_subject
from jetstream_bridge.events.dead_letter import DeadLetter
from jetstream_bridge.events.event import microseconds
from jetstream_bridge.events.wire_rules import GEM_ID_HEADER, ID_HEADER
from jetstream_bridge.nats.management import Json, Requests
from jetstream_bridge.nats.publishing import AckPublisher
from jetstream_bridge.operations.bulk_operations import BulkOperation, BulkResult, LetterBreakdown
from jetstream_bridge.operations.letter_filter import LetterFilter, LetterGroup, kind_of
from jetstream_bridge.operations.letter_reader import LetterReader
from jetstream_bridge.operations.replaying import original_key, replay_event

__all__ = [
    "BulkOperation",
    "BulkResult",
    "DeadLetterQueue",
    "LetterBreakdown",
    "LetterCursor",
    "LetterFilter",
    "LetterGroup",
    "LetterPage",
    "kind_of",
]

PAGE_BYTES = 8 * 1024 * 1024  # of bodies in one page
MOST_COUNTED = 2000  # letters read at most to tell their kinds
_BEGIN_AGAIN = "so letters would be left out; begin the list again, without `after`"


@dataclass(frozen=True, slots=True)
class LetterCursor:
    """Where a page ended: a sequence, and when the stream was made in which it counts."""

    sequence: int
    made_us: int  # microseconds since 1970
    newest_first: bool = False


@dataclass(frozen=True, slots=True)
class LetterPage:
    """Some letters. `next` is where to go on, None at the end.

    A page ends early when it has become large, or when looking took its time.
    """

    items: list[DeadLetter]
    next: LetterCursor | None
    total: int  # letters that there are, whatever was asked for


class DeadLetterQueue:
    """The dead letters of one service, on the stream that it shares with others.

    `app` is a peer whose letters these are; None: this service's own. What is replayed to a peer
    has its id in lower case: a gem takes any spelling, and loses its next dead letter of an event
    whose id the server knows.
    """

    def __init__(
        self,
        connection: Requests,
        acks: AckPublisher,
        config: BridgeConfig,
        *,
        app: str | None = None,
    ) -> None:
        self._reader = LetterReader(connection, config, app=app)
        self._acks = acks
        # Where a letter of this service can have come from.
        self._origins = f"{self._reader.names.env}.*.sync.{self._reader.names.app}"
        self._id_header = ID_HEADER if app is None else GEM_ID_HEADER

    async def get(self, sequence: int) -> DeadLetter:
        """Return the letter at `sequence`; raise `NotFoundError` if there is none of ours."""
        return await self._reader.get(sequence)

    async def count(self) -> int:
        """How many letters there are; one request, whatever their number."""
        return self._reader.count_in(await self._reader.info())

    # --- reading

    async def page(
        self,
        *,
        after: LetterCursor | None = None,
        limit: int = 50,
        letter_filter: LetterFilter | None = None,
        newest_first: bool = False,
        within: float = 5.0,
    ) -> LetterPage:
        """Return up to `limit` letters behind `after`, in about `within` seconds.

        JetStream hands them out one by one, so a page costs one or two requests for each letter.
        Raises `NotPossibleError` when the stream was made anew since `after`: it counts from 1
        again.
        """
        letter_filter = letter_filter or LetterFilter()
        info = await self._reader.info()
        made = microseconds(datetime.fromisoformat(info["created"]))
        self._check(after, made, newest_first=newest_first)
        total = self._reader.count_in(info)
        place = after.sequence if after is not None else None
        deadline = loop_time() + within
        items: list[DeadLetter] = []
        size = 0
        async for letter in self._letters(info, place, newest_first=newest_first):
            if len(items) == limit or size >= PAGE_BYTES or loop_time() > deadline:
                return LetterPage(items, LetterCursor(place or 0, made, newest_first), total)
            place = letter.metadata.sequence
            if letter_filter.takes(letter):
                items.append(letter)
                size += len(letter.body)
        return LetterPage(items, next=None, total=total)

    async def breakdown(
        self, letter_filter: LetterFilter | None = None, *, within: float = 2.0
    ) -> LetterBreakdown:
        """Count letters by what they have in common, from the newest on, as time permits."""
        letter_filter = letter_filter or LetterFilter()
        info = await self._reader.info()
        breakdown = LetterBreakdown(self._reader.count_in(info), int(info["state"]["last_seq"]))
        deadline = loop_time() + within
        if not breakdown.total:
            return breakdown
        async for letter in self._letters(info, None, newest_first=True):
            breakdown.read += 1
            breakdown.every[kind_of(letter)] += 1
            if letter_filter.takes(letter):
                breakdown.matching += 1
                breakdown.kinds[kind_of(letter)] += 1
            if breakdown.read == MOST_COUNTED or loop_time() > deadline:
                break
        return breakdown

    async def returned(self, since: int, *, within: float = 2.0) -> BulkResult:
        """Count the letters behind sequence `since` whose events were replayed from before it.

        A letter tells from which one its event was replayed, so nothing has to be remembered.
        """
        found = BulkResult(last=since)
        deadline = loop_time() + within
        async for letter in self._reader.forwards(since):
            if letter.replayed_from is not None and letter.replayed_from <= since:
                found.note(letter)
            if loop_time() > deadline:
                found.more = True
                break
        return found

    def _letters(
        self, info: Json, place: int | None, *, newest_first: bool
    ) -> AsyncIterator[DeadLetter]:
        if not newest_first:
            return self._reader.forwards(place or 0)
        state = info["state"]
        before = place if place is not None else int(state["last_seq"]) + 1
        return self._reader.backwards(before, int(state["first_seq"]))

    def _check(self, after: LetterCursor | None, made: int, *, newest_first: bool) -> None:
        if after is None:
            return
        if after.made_us != made:
            raise NotPossibleError(
                f"stream {self._reader.stream} was made anew since this list was begun, "
                f"{_BEGIN_AGAIN}"
            )
        if after.newest_first is not newest_first:
            raise NotPossibleError(f"this list was begun in another order, {_BEGIN_AGAIN}")

    # --- changing

    async def replay(self, letter: DeadLetter) -> BulkResult:
        """Put one letter's event back onto its original subject, then remove the letter.

        Raises `NotPossibleError` when the letter does not tell where it came from, and
        `PublishError` when the stream did not take the event; the letter stays then.
        """
        done = BulkResult(int((await self._reader.info())["state"]["last_seq"]))
        await self._replay(letter)
        done.note(letter)
        return done

    async def replay_many(
        self, operation: BulkOperation, on_letter: Callable[[DeadLetter], None] | None = None
    ) -> BulkResult:
        """Replay those of the letters that are there now which `operation` takes, oldest first.

        Letters that come back meanwhile are left for the next time. What NATS does not take in
        raises, and `on_letter` has been called for each that was replayed.
        """
        done = await self._begun(operation)
        async for letter in self._matching(operation, done):
            if not operation.dry_run:
                await self._replay(letter)
            _note(done, letter, on_letter)
        return done

    async def discard_many(
        self, operation: BulkOperation, on_letter: Callable[[DeadLetter], None] | None = None
    ) -> BulkResult:
        """Remove those of the letters for good which `operation` takes, oldest first."""
        done = await self._begun(operation)
        async for letter in self._matching(operation, done, as_they_are=False):
            sequence = letter.metadata.sequence
            gone = operation.dry_run or await self._reader.api.delete_message(
                self._reader.stream, sequence
            )
            if gone:  # and not by somebody else
                _note(done, letter, on_letter)
        return done

    async def discard(self, sequence: int) -> None:
        """Remove one letter for good; raise `NotFoundError` if it is not there."""
        letter = await self.get(sequence)
        stream = self._reader.stream
        if not await self._reader.api.delete_message(stream, letter.metadata.sequence):
            raise NotFoundError(f"dead letter {sequence} was removed by somebody else just now")

    async def _begun(self, operation: BulkOperation) -> BulkResult:
        last = int((await self._reader.info())["state"]["last_seq"])
        return BulkResult(last if operation.until is None else min(last, operation.until))

    async def _matching(
        self, operation: BulkOperation, done: BulkResult, *, as_they_are: bool = True
    ) -> AsyncIterator[DeadLetter]:
        """Yield each letter that `operation` takes at its time; `done` counts what the caller did.

        `as_they_are`: those that cannot be replayed as they are, are skipped.
        """
        deadline = None if operation.within is None else loop_time() + operation.within
        async for letter in self._reader.forwards(0):
            if letter.metadata.sequence > done.last:
                return
            if not operation.letter_filter.takes(letter):
                continue
            if as_they_are and self.obstacle(letter) is not None:
                done.skipped += 1
                continue
            pause = (
                1 / operation.rate
                if operation.rate and done.count and not operation.dry_run
                else 0.0
            )
            late = deadline is not None and loop_time() + pause > deadline
            if done.count == operation.limit or late:
                done.more = True
                return
            if not operation.dry_run:
                await asyncio.sleep(pause)
            yield letter

    async def _replay(self, letter: DeadLetter) -> None:
        problem = self.obstacle(letter)
        if problem is not None:
            raise NotPossibleError(problem)
        stream = self._reader.stream
        await replay_event(
            self._acks,
            letter.original_subject,
            letter.body,
            letter.metadata.headers,
            key=original_key(letter),
            place=f"{stream}:{letter.metadata.place}",
            id_header=self._id_header,
        )
        await self._reader.api.delete_message(stream, letter.metadata.sequence)

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
                f"{named} came from {subject}, which {self._reader.whose} does not read "
                f"({self._origins}); publish its body by hand, then discard it"
            )
        return None


def _note(
    done: BulkResult, letter: DeadLetter, on_letter: Callable[[DeadLetter], None] | None
) -> None:
    done.note(letter)
    if on_letter is not None:
        on_letter(letter)
