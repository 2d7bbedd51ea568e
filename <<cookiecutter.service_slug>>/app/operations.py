"""What an operator may ask of this service and do to it, whoever carries the request.

The API under /admin and the console call the same methods. Every change is logged with who made
it and what it did; looking is not. Faults are the bridge's own errors: `NotFoundError`,
`NotPossibleError`, and what NATS or the database could not do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime

import structlog

from app.bridge import Bridge
from app.bridge.errors import NotFoundError, NotPossibleError
from app.bridge.inspection import TopologyState
from app.bridge.letter import DeadLetter
from app.bridge.letter_box import Choice, LetterPage, Replayed, replay_event
from app.bridge.listing import InboxRow, OutboxRow
from app.bridge.outbox_maintenance import DiscardOutcome, RetryOutcome
from app.bridge.stats import OutboxStats, outbox_stats
from app.database import Database

REPLAY_WITHIN = 20.0  # seconds for a replay of many in one request

_log = structlog.get_logger(__name__)


class Operations:
    """The operator's side of one running service. `by` says whose actions these are in the log."""

    def __init__(self, bridge: Bridge, database: Database, *, by: str) -> None:
        self._bridge = bridge
        self._database = database
        self._by = by
        self.outbox = bridge.outbox_listing
        self.inbox = bridge.inbox_listing

    def _note(self, action: str, **what: object) -> None:
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

    async def letters(self, *, after: int, limit: int, choice: Choice) -> LetterPage:
        return await self._bridge.letters.page(after=after, limit=limit, choice=choice)

    async def letter_count(self) -> int:
        return await self._bridge.letters.count()

    async def letter(self, sequence: int) -> DeadLetter:
        return await self._bridge.letters.get(sequence)

    def obstacle(self, letter: DeadLetter) -> str | None:
        """Say why a letter cannot be replayed as it is."""
        return self._bridge.letters.obstacle(letter)

    async def replay(self, sequence: int) -> None:
        """Put one dead letter's event back onto its subject."""
        letter = await self._bridge.letters.replay(sequence)
        self._note("dlq.replay", sequence=sequence, event_id=letter.event_id)

    async def replay_many(
        self,
        *,
        limit: int,
        choice: Choice,
        rate: float | None,
        dry_run: bool,
        within: float | None = REPLAY_WITHIN,
        on_letter: Callable[[DeadLetter], None] | None = None,
    ) -> Replayed:
        """Put up to `limit` dead letters back, oldest first, for `within` seconds at most.

        `on_letter` is called with each of them.
        """
        replayed = 0

        def count(letter: DeadLetter) -> None:
            nonlocal replayed
            replayed += 1
            if on_letter is not None:
                on_letter(letter)

        try:
            return await self._bridge.letters.replay_many(
                limit=limit,
                choice=choice,
                rate=rate,
                dry_run=dry_run,
                within=within,
                on_letter=count,
            )
        finally:
            if not dry_run:
                self._note(
                    "dlq.replay_many",
                    replayed=replayed,
                    reason=choice.reason,
                    event_type=choice.event_type,
                )

    async def discard_letter(self, sequence: int) -> None:
        """Delete one dead letter for good."""
        await self._bridge.letters.discard(sequence)
        self._note("dlq.discard", sequence=sequence)

    async def discarding_letters(self, sequences: Sequence[int]) -> AsyncIterator[int]:
        """Delete dead letters for good; tell each that was still there."""
        discarded = 0
        try:
            for sequence in sequences:
                try:
                    await self._bridge.letters.discard(sequence)
                except NotFoundError:  # somebody else was quicker
                    continue
                discarded += 1
                yield sequence
        finally:
            self._note("dlq.purge", discarded=discarded)

    # --- topology

    async def topology(self) -> TopologyState:
        return await self._bridge.inspection.topology()


def _no_event(event_id: str) -> NotFoundError:
    return NotFoundError(
        f"there is no event {event_id!r} in the outbox; sent ones go after OUTBOX_RETENTION"
    )
