"""What is asked of many dead letters at once, and what came of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from jetstream_bridge.events.dead_letter import DeadLetter
from jetstream_bridge.operations.letter_filter import LetterFilter, LetterGroup, kind_of


@dataclass(slots=True)
class LetterBreakdown:
    """What kinds of letters there are, as far as they were read: from the newest on."""

    total: int
    last: int  # the stream's last sequence when it was begun
    read: int = 0
    matching: int = 0  # of those read
    kinds: Counter[LetterGroup] = field(default_factory=Counter)  # of those that match
    every: Counter[LetterGroup] = field(default_factory=Counter)  # of those read

    @property
    def whole(self) -> bool:
        return self.read >= self.total


@dataclass(slots=True)
class BulkResult:
    """What a replay, or a discarding, of many did, or would do."""

    last: int  # the stream's last sequence when it was begun: later letters were left alone
    count: int = 0
    skipped: int = 0  # letters that cannot be replayed as they are
    more: bool = False  # there may be further ones: the limit or the time was used up
    kinds: Counter[LetterGroup] = field(default_factory=Counter)

    def note(self, letter: DeadLetter) -> None:
        self.count += 1
        self.kinds[kind_of(letter)] += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOperation:
    """What is done to many letters, and within which bounds."""

    limit: int
    letter_filter: LetterFilter = field(default_factory=LetterFilter)
    until: int | None = None  # the last sequence that is concerned; None: all that are there now
    rate: float | None = None  # the most in one second
    within: float | None = None  # seconds
    dry_run: bool = False
