"""What an operator may ask of this service and do to it, whoever carries the request.

The API under /admin and the console call the same methods. Every change is logged with who made
it and what it did; looking is not. Faults are the bridge's own errors: `NotFoundError`,
`NotPossibleError`, and what NATS or the database could not do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from datetime import datetime

from jetstream_bridge.bridge import Bridge
from jetstream_bridge.core.errors import NotFoundError, NotPossibleError
from jetstream_bridge.core.logger import get_logger
from jetstream_bridge.events.dead_letter import DeadLetter
from jetstream_bridge.operations.dead_letter_queue import (
    BulkOperation,
    BulkResult,
    LetterBreakdown,
    LetterCursor,
    LetterFilter,
    LetterPage,
)
from jetstream_bridge.operations.inspection import TopologyState
from jetstream_bridge.operations.listed_rows import InboxRow, OutboxRow
from jetstream_bridge.operations.replaying import replay_event
from jetstream_bridge.operations.statistics import OutboxStats, outbox_stats
from jetstream_bridge.outbox.maintenance import DiscardOutcome, RetryOutcome
from jetstream_bridge.service.database import Database

REPLAY_WITHIN = 20.0  # seconds for a replay of many in one request

_log = get_logger(__name__)


class Operations:
    """The operator's side of one running service. `by` says whose actions these are in the log.

    `app` is a peer whose dead letters are meant, and not this service's own.
    """

    def __init__(
        self, bridge: Bridge, database: Database, *, by: str, app: str | None = None
    ) -> None:
        self._bridge = bridge
        self._database = database
        self._by = by
        self._app = app
        self._letters = bridge.letters if app is None else bridge.letters_of(app)
        self.outbox = bridge.outbox_listing
        self.inbox = bridge.inbox_listing

    def for_letters_of(self, app: str | None) -> Operations:
        """Return the same for the dead letters of a peer; None: of this service."""
        return Operations(self._bridge, self._database, by=self._by, app=app)

    def _note(self, action: str, **what: object) -> None:
        if self._app is not None:
            what["app"] = self._app
        _log.info("operator's action", action=action, by=self._by, **what)

    # --- outbox

    async def outbox_stats(self) -> OutboxStats:
        return await outbox_stats(self._database.engine)

    async def outbox_row(self, event_id: str) -> OutboxRow:
        row = await self.outbox.get(event_id)
        if row is None:
            raise _no_event(event_id)
        return row

    async def retry(self, event_id: str) -> OutboxRow:
        """Send one event that failed, or that waits for its next try, now."""
        outcome = await self._bridge.outbox_maintenance.retry(event_id)
        if outcome is RetryOutcome.UNKNOWN:
            raise _no_event(event_id)
        if outcome is RetryOutcome.SENT:
            raise NotPossibleError(f"event {event_id!r} is sent already; there is nothing to retry")
        self._bridge.wake_relay()
        self._note("outbox.retry", event_id=event_id)
        return await self.outbox_row(event_id)

    async def retry_failed(self) -> int:
        """Send all events that failed; return how many."""
        return sum([portion async for portion in self.retrying_failed()])

    async def retrying_failed(self) -> AsyncIterator[int]:
        """Do what `retry_failed` does, and tell after each portion how many events it had."""
        retried = 0
        try:
            async for portion in self._bridge.outbox_maintenance.retrying_failed():
                retried += portion
                yield portion
        finally:
            self._bridge.wake_relay()
            self._note("outbox.retry_failed", retried=retried)

    async def purging_sent(self, *, older_than: float) -> AsyncIterator[int]:
        """Delete events sent more than `older_than` seconds ago; tell how many in each portion."""
        deleted = 0
        try:
            async for portion in self._bridge.outbox_maintenance.purging(older_than=older_than):
                deleted += portion
                yield portion
        finally:
            self._note("outbox.purge", deleted=deleted, older_than=older_than)

    async def discard(self, event_id: str) -> None:
        """Delete an event that is not sent; it will never be announced."""
        outcome = await self._bridge.outbox_maintenance.discard(event_id)
        if outcome is DiscardOutcome.UNKNOWN:
            raise _no_event(event_id)
        if outcome is DiscardOutcome.SENT:
            raise NotPossibleError(f"event {event_id!r} is sent already and cannot be taken back")
        self._bridge.wake_relay()
        self._note("outbox.discard", event_id=event_id)

    async def paused_since(self) -> datetime | None:
        return await self._bridge.outbox_pause.since()

    async def pause(self) -> datetime | None:
        """Stop relaying on every replica; events are still written, and wait."""
        if await self._bridge.outbox_pause.pause():
            self._note("outbox.pause")
        self._bridge.wake_relay()
        return await self.paused_since()

    async def resume(self) -> datetime | None:
        """Relay again on every replica."""
        if await self._bridge.outbox_pause.resume():
            self._note("outbox.resume")
        self._bridge.wake_relay()
        return await self.paused_since()

    # --- inbox

    async def inbox_row(self, key: int) -> InboxRow:
        row = await self.inbox.get(key)
        if row is None:
            raise NotFoundError(
                f"there is no inbox row {key}; processed ones go after INBOX_RETENTION"
            )
        return row

    async def replay_parked(self, key: int) -> InboxRow:
        """Put an event that is parked in the inbox back onto its subject."""
        row = await self.inbox_row(key)
        if row.body is None or row.status != "dead_lettered":
            raise NotPossibleError(
                f"inbox row {key} is {row.status.value} and keeps no event; only one that is "
                "parked (dead_lettered, with its body) can be replayed here, see also /admin/dlq"
            )
        await replay_event(
            self._bridge.acks,
            row.subject,
            row.body,
            {name: str(value) for name, value in (row.headers or {}).items()},
            key=row.event_id,
            place=f"parked:{row.id}:{row.stream_seq}",
        )
        self._note("inbox.replay", id=key, event_id=row.event_id)
        return await self.inbox_row(key)

    # --- dead letters

    async def letters(
        self,
        *,
        after: LetterCursor | None,
        limit: int,
        letter_filter: LetterFilter,
        newest_first: bool = False,
    ) -> LetterPage:
        return await self._letters.page(
            after=after, limit=limit, letter_filter=letter_filter, newest_first=newest_first
        )

    async def letter_breakdown(self, letter_filter: LetterFilter) -> LetterBreakdown:
        """Count letters by reason, error and type, from the newest on, as time permits."""
        return await self._letters.breakdown(letter_filter)

    async def letter_count(self) -> int:
        return await self._letters.count()

    async def letter(self, sequence: int) -> DeadLetter:
        return await self._letters.get(sequence)

    async def letter_of(self, row: InboxRow) -> DeadLetter | None:
        """Return the dead letter of an inbox row: the newest of its event that this row tells of.

        None if it is there no more, or was not found within a few seconds.
        """
        letter_filter = LetterFilter(event_id=row.event_id)
        page = await self.letters(
            after=None, limit=10, letter_filter=letter_filter, newest_first=True
        )
        exact = [letter for letter in page.items if letter.sequence == row.stream_seq]
        return next(iter(exact or page.items), None)

    def obstacle(self, letter: DeadLetter) -> str | None:
        """Say why a letter cannot be replayed as it is."""
        return self._letters.obstacle(letter)

    async def returned_letters(self, since: int) -> BulkResult:
        """Count the events replayed before `since` that failed again and are letters anew."""
        return await self._letters.returned(since)

    async def replay(self, sequence: int) -> BulkResult:
        """Put one dead letter's event back onto its subject."""
        letter = await self._letters.get(sequence)
        done = await self._letters.replay(letter)
        self._note("dlq.replay", sequence=sequence, event_id=letter.event_id)
        return done

    async def replay_many(
        self, operation: BulkOperation, on_letter: Callable[[DeadLetter], None] | None = None
    ) -> BulkResult:
        """Put dead letters back, oldest first; `on_letter` is called with each of them."""
        count = _Counted(on_letter)
        try:
            return await self._letters.replay_many(operation, count)
        finally:
            if not operation.dry_run:
                self._note(
                    "dlq.replay_many", replayed=count.number, **_named(operation.letter_filter)
                )

    async def discard_letter(self, sequence: int) -> None:
        """Delete one dead letter for good."""
        await self._letters.discard(sequence)
        self._note("dlq.discard", sequence=sequence)

    async def discard_many(
        self, operation: BulkOperation, on_letter: Callable[[DeadLetter], None] | None = None
    ) -> BulkResult:
        """Delete dead letters for good; `on_letter` is called with each of them."""
        count = _Counted(on_letter)
        try:
            return await self._letters.discard_many(operation, count)
        finally:
            if not operation.dry_run:
                self._note("dlq.purge", discarded=count.number, **_named(operation.letter_filter))

    # --- topology

    async def topology(self) -> TopologyState:
        return await self._bridge.inspection.topology()


class _Counted:
    """Counts the letters that something was done to, whether or not it came to its end."""

    def __init__(self, on_letter: Callable[[DeadLetter], None] | None) -> None:
        self.number = 0
        self._on_letter = on_letter

    def __call__(self, letter: DeadLetter) -> None:
        self.number += 1
        if self._on_letter is not None:
            self._on_letter(letter)


def _named(letter_filter: LetterFilter) -> dict[str, str]:
    """The parts of a filter that narrow it, for the log."""
    return {name: value for name, value in asdict(letter_filter).items() if value is not None}


def _no_event(event_id: str) -> NotFoundError:
    return NotFoundError(
        f"there is no event {event_id!r} in the outbox; sent ones go after OUTBOX_RETENTION"
    )
