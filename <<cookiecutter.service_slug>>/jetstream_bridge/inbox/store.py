"""The inbox: which events have taken effect here, written by the transaction in which they did.

A row is `processed` only because the handler's work was committed with it. The key is
(`consumer`, `event_id`), so two durables in one database handle the same event each once. A row's
place in its stream is the sequence and the moment of storing: a stream that was made anew counts
from 1 again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto

from pydantic_core import to_json
from sqlalchemy import and_, delete, or_, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge.core.columns import compact, storable
from jetstream_bridge.events.event import microseconds
from jetstream_bridge.inbox.claim_statements import CLAIM, LOCK_LIMIT, TRANSACTION
from jetstream_bridge.inbox.received import Place, Received
from jetstream_bridge.inbox.row_states import is_free, is_open, is_same_place, kept
from jetstream_bridge.inbox.tables import InboxEvent, InboxStatus

__all__ = ["ClaimResult", "Inbox", "KnownMessage"]


class KnownMessage(Enum):
    """Which message it was that has taken effect."""

    SAME = auto()
    OTHER = auto()  # one with the same key, on another place


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """What a claim came to."""

    fresh: frozenset[Place]  # what is to be handled; the rest has taken effect before
    # PostgreSQL's name of the transaction that wrote the rows. None where nothing was written,
    # and on SQLite.
    transaction: int | None
    releasable: bool = True  # every row of it was written by this claim, and none was there before


class Inbox:
    """The inbox of one durable consumer. Every method works in the caller's transaction."""

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer

    async def claim(self, session: AsyncSession, batch: Sequence[Received]) -> ClaimResult:
        """Write `batch` as processed; return what is to be handled.

        Costs one statement, unless some of it is known.
        """
        batch = await self._without_old_rows(session, batch)
        if not batch:
            return ClaimResult(frozenset(), None)
        claimed = await self._insert(session, batch)
        rest = [received for received in batch if received.place not in claimed.fresh]
        if rest:
            claimed = _together(claimed, await self._claim_known(session, rest))
        return claimed

    async def release(self, session: AsyncSession, rest: Sequence[Received]) -> None:
        """Take back the claim of `rest` in the transaction that made it, if it is releasable."""
        same_place = tuple_(col(InboxEvent.stream_seq), col(InboxEvent.stored_us))
        await session.exec(
            delete(InboxEvent)
            .where(
                col(InboxEvent.consumer) == self._consumer,
                col(InboxEvent.stream) == rest[0].stream,
                same_place.in_([received.place for received in rest]),
            )
            .execution_options(synchronize_session=False)
        )

    async def _without_old_rows(
        self, session: AsyncSession, batch: Sequence[Received]
    ) -> Sequence[Received]:
        """Drop what an older version has handled: its key had the sequence only, `seq:17`.

        A row that is older than the message is of a stream before this one.
        """
        keys = {f"seq:{r.seq}": r for r in batch if r.key == f"seq:{r.seq}:{r.stored_us}"}
        if not keys:
            return batch
        found = await session.exec(
            select(InboxEvent).where(
                InboxEvent.consumer == self._consumer,
                InboxEvent.stream == batch[0].stream,
                InboxEvent.status == InboxStatus.PROCESSED,
                col(InboxEvent.event_id).in_(keys),
            )
        )
        known = {
            keys[row.event_id].place
            for row in found
            if row.processed_at is not None
            and microseconds(row.processed_at) >= keys[row.event_id].stored_us
        }
        return [received for received in batch if received.place not in known]

    async def _insert(self, session: AsyncSession, batch: Sequence[Received]) -> ClaimResult:
        connection = await session.connection()
        dialect = connection.dialect.name
        result = await connection.execute(CLAIM[dialect], self._parameters(dialect, batch))
        if dialect == "sqlite":
            return ClaimResult(frozenset((seq, moment) for seq, moment in result), None)
        written = result.one()
        if written.all_of_them:
            places = frozenset(received.place for received in batch)
        else:
            places = frozenset((seq, moment) for seq, moment in written.places or ())
        return ClaimResult(places, written.transaction if places else None)

    def _parameters(self, dialect: str, batch: Sequence[Received]) -> dict[str, object]:
        common: dict[str, object] = {"consumer": self._consumer, "stream": batch[0].stream}
        headers = [to_json(r.headers).decode() for r in batch]
        if dialect == "sqlite":
            rows = [
                [r.key, r.subject, r.body, h, r.seq, r.stored_us, r.deliveries]
                for r, h in zip(batch, headers, strict=True)
            ]
            return common | {"rows": compact(rows)}
        return common | {
            "patience": f"{LOCK_LIMIT:g}s",
            "keys": [r.key for r in batch],
            "subjects": [r.subject for r in batch],
            "bodies": [r.body for r in batch],
            "headers": headers,
            "seqs": [r.seq for r in batch],
            "moments": [r.stored_us for r in batch],
            "deliveries": [r.deliveries for r in batch],
        }

    async def _claim_known(self, session: AsyncSession, rest: Sequence[Received]) -> ClaimResult:
        """Decide about events whose key, or whose place in the stream, is in the table."""
        known, transaction = await self._known(session, rest)
        claimed = ClaimResult(frozenset(), transaction)
        displaced = [received for received in rest if received.place not in known]
        if displaced:
            await self._forget_places(session, displaced)
            claimed = _together(claimed, await self._insert(session, displaced))
        for received in rest:
            row = known.get(received.place)
            if row is not None and is_open(row, received):
                await self._take_over(session, row, received)
                taken = ClaimResult(frozenset({received.place}), None, releasable=False)
                claimed = _together(claimed, taken)
        return claimed

    async def _known(
        self, session: AsyncSession, rest: Sequence[Received]
    ) -> tuple[dict[Place, InboxEvent], int | None]:
        """This consumer's rows of the same event, or of the same message whatever its key."""
        same_place = tuple_(col(InboxEvent.stream_seq), col(InboxEvent.stored_us))
        found = await session.exec(
            select(InboxEvent, TRANSACTION[session.get_bind().dialect.name])
            .where(
                InboxEvent.consumer == self._consumer,
                or_(
                    col(InboxEvent.event_id).in_([r.key for r in rest]),
                    and_(
                        col(InboxEvent.stream) == rest[0].stream,
                        same_place.in_([r.place for r in rest]),
                    ),
                ),
            )
            .with_for_update(of=InboxEvent)
        )
        rows = found.all()
        by_key = {row.event_id: row for row, _ in rows}
        by_place = {(row.stream_seq, row.stored_us): row for row, _ in rows}
        known = {r.place: by_key.get(r.key) or by_place.get(r.place) for r in rest}
        return (
            {place: row for place, row in known.items() if row is not None},
            rows[0][1] if rows else None,
        )

    async def _forget_places(self, session: AsyncSession, displaced: Sequence[Received]) -> None:
        """Two consumers in one database may have read the same message.

        The rows keep their events; only the newest says where it stands in the stream.
        """
        same_place = tuple_(col(InboxEvent.stream_seq), col(InboxEvent.stored_us))
        await session.exec(
            update(InboxEvent)
            .where(
                col(InboxEvent.stream) == displaced[0].stream,
                same_place.in_([r.place for r in displaced]),
            )
            .values(stream_seq=None)
            .execution_options(synchronize_session=False)
        )

    async def _take_over(self, session: AsyncSession, row: InboxEvent, received: Received) -> None:
        row.status = InboxStatus.PROCESSED
        row.processed_at = row.updated_at = datetime.now(UTC)
        row.last_error = None
        row.deliveries = received.deliveries
        row.unfinished = 0
        if (row.stream_seq, row.stored_us) != received.place:
            await self._forget_places(session, [received])
            row.stream, row.stream_seq = received.stream, received.seq
            row.stored_us = received.stored_us
        session.add(row)
        await session.flush()

    async def processed(self, session: AsyncSession, received: Received) -> KnownMessage | None:
        """Whether a message with the key of `received` has taken effect, and which."""
        found = await session.exec(
            select(InboxEvent).where(
                InboxEvent.consumer == self._consumer,
                InboxEvent.event_id == received.key,
                InboxEvent.status == InboxStatus.PROCESSED,
            )
        )
        row = found.first()
        if row is None:
            return None
        return KnownMessage.SAME if is_same_place(row, received) else KnownMessage.OTHER

    async def record(
        self,
        session: AsyncSession,
        received: Received,
        status: InboxStatus,
        error: str | None,
        *,
        body: bytes | None = None,
    ) -> bool:
        """Write what is the matter with an event; False when its row is that of another message:
        it had been processed, or `body` would take the place of another that is parked there.

        `body` parks the message itself, for a service without dead letters.
        """
        make = (
            postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
        )
        now = datetime.now(UTC)
        error = None if error is None else storable(error)
        await self._forget_other_places(session, received)
        insert = make(InboxEvent).values(
            consumer=self._consumer,
            event_id=received.key,
            subject=received.subject,
            payload=received.body,
            body=body,
            headers=received.headers,
            stream=received.stream,
            stream_seq=received.seq,
            stored_us=received.stored_us,
            deliveries=received.deliveries,
            status=status,
            last_error=error,
        )
        statement = insert.on_conflict_do_update(
            index_elements=["consumer", "event_id"],
            set_={
                "status": status,
                "last_error": error,
                "body": col(InboxEvent.body) if body is None else body,
                "deliveries": received.deliveries,
                "stream": received.stream,
                "stream_seq": received.seq,
                "stored_us": received.stored_us,
                "updated_at": now,
                "failures": kept(InboxEvent.failures, received),
                "unfinished": kept(InboxEvent.unfinished, received),
            },
            where=is_free(body),
        ).returning(col(InboxEvent.id))
        connection = await session.connection()
        return (await connection.execute(statement)).first() is not None

    async def _forget_other_places(self, session: AsyncSession, received: Received) -> None:
        await session.exec(
            update(InboxEvent)
            .where(
                col(InboxEvent.stream) == received.stream,
                col(InboxEvent.stream_seq) == received.seq,
                col(InboxEvent.stored_us) == received.stored_us,
                or_(
                    col(InboxEvent.event_id) != received.key,
                    col(InboxEvent.consumer) != self._consumer,
                ),
            )
            .values(stream_seq=None)
            .execution_options(synchronize_session=False)
        )


def _together(one: ClaimResult, other: ClaimResult) -> ClaimResult:
    return ClaimResult(
        one.fresh | other.fresh,
        one.transaction or other.transaction,
        one.releasable and other.releasable,
    )
