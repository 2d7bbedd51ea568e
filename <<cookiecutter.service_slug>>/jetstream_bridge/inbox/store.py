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

from sqlalchemy import and_, case, or_, text, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import ColumnElement
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge.core.columns import compact, storable
from jetstream_bridge.events.event import microseconds
from jetstream_bridge.inbox.tables import InboxEvent, InboxStatus

__all__ = ["Claimed", "Inbox", "InboxEvent", "InboxStatus", "Known", "Place", "Received", "kept"]

# A message's sequence, and the microseconds since 1970 at which the stream stored it.
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Received:
    """What the inbox keeps of one delivery."""

    key: str  # the event id
    subject: str
    data: bytes | None  # the envelope as it came; None when it is no JSON object
    headers: dict[str, str]
    stream: str
    seq: int
    stored_us: int
    deliveries: int

    @property
    def place(self) -> Place:
        return self.seq, self.stored_us

    @property
    def body(self) -> str | None:
        """The envelope's text, made when it is written: what only waits is held once."""
        return None if self.data is None else self.data.decode()


class Known(Enum):
    """Which message it was that has taken effect."""

    SAME = auto()
    OTHER = auto()  # one with the same key, on another place


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim came to."""

    fresh: frozenset[Place]  # what is to be handled; the rest has taken effect before
    # PostgreSQL's name of the transaction that wrote the rows. None where nothing was written,
    # and on SQLite.
    transaction: int | None


# How long a claim waits for a row that another transaction has written and not committed: that of
# a worker that was frozen or cut off, for instance. Handlers have the session's own limit again.
LOCK_LIMIT = 1.0  # seconds

# One statement for a whole batch. Rows are written as `processed` at once: they become visible
# only with the handlers' work. What does not come back was here before, by its key or by its
# place in the stream.
_CLAIM = {
    "postgresql": text("""
        WITH patience AS MATERIALIZED (
             SELECT current_setting('lock_timeout') AS before,
                    set_config('lock_timeout', :patience, true)),
        claimed AS (
        INSERT INTO jetstream_inbox_events
               (consumer, event_id, subject, payload, headers, stream, stream_seq, stored_us,
                deliveries, status, processed_at)
        SELECT :consumer, r.event_id, r.subject, CAST(r.payload AS json), CAST(r.headers AS json),
               :stream, r.seq, r.stored_us, r.deliveries, 'processed', now()
          FROM patience,
               unnest(CAST(:keys AS text[]), CAST(:subjects AS text[]), CAST(:bodies AS text[]),
                      CAST(:headers AS text[]), CAST(:seqs AS bigint[]),
                      CAST(:moments AS bigint[]), CAST(:deliveries AS integer[]))
               WITH ORDINALITY AS r(event_id, subject, payload, headers, seq, stored_us,
                                    deliveries, position)
         ORDER BY r.position
            ON CONFLICT DO NOTHING
        RETURNING stream_seq, stored_us)
        SELECT stream_seq, stored_us, txid_current(),
               set_config('lock_timeout', (SELECT before FROM patience), true)
          FROM (SELECT * FROM claimed ORDER BY stream_seq) AS all_of_them"""),
    "sqlite": text("""
        INSERT INTO jetstream_inbox_events
               (consumer, event_id, subject, payload, headers, stream, stream_seq, stored_us,
                deliveries, status, processed_at)
        SELECT :consumer, value ->> 0, value ->> 1, value ->> 2, value ->> 3, :stream,
               value ->> 4, value ->> 5, value ->> 6, 'processed',
               strftime('%Y-%m-%d %H:%M:%f000', 'now')
          FROM json_each(:rows) WHERE true ORDER BY key
            ON CONFLICT DO NOTHING
        RETURNING stream_seq, stored_us, NULL, NULL"""),
}
_TRANSACTION = {
    "postgresql": text("txid_current()"),
    "sqlite": text("NULL"),
}


class Inbox:
    """The inbox of one durable consumer. Every method works in the caller's transaction."""

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer

    async def claim(self, session: AsyncSession, batch: Sequence[Received]) -> Claimed:
        """Write `batch` as processed; return what is to be handled.


        Costs one statement, unless some of it is known.
        """
        batch = await self._without_old_rows(session, batch)
        if not batch:
            return Claimed(frozenset(), None)
        claimed = await self._insert(session, batch)
        rest = [received for received in batch if received.place not in claimed.fresh]
        if rest:
            claimed = _together(claimed, await self._claim_known(session, rest))
        return claimed

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

    async def _insert(self, session: AsyncSession, batch: Sequence[Received]) -> Claimed:
        connection = await session.connection()
        dialect = connection.dialect.name
        result = await connection.execute(_CLAIM[dialect], self._parameters(dialect, batch))
        found = result.all()
        places = frozenset((seq, moment) for seq, moment, *_ in found)
        return Claimed(places, found[0][2] if found else None)

    def _parameters(self, dialect: str, batch: Sequence[Received]) -> dict[str, object]:
        common: dict[str, object] = {"consumer": self._consumer, "stream": batch[0].stream}
        headers = [compact(dict(r.headers)) for r in batch]
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

    async def _claim_known(self, session: AsyncSession, rest: Sequence[Received]) -> Claimed:
        """Decide about events whose key, or whose place in the stream, is in the table."""
        known, transaction = await self._known(session, rest)
        claimed = Claimed(frozenset(), transaction)
        displaced = [received for received in rest if received.place not in known]
        if displaced:
            await self._forget_places(session, displaced)
            claimed = _together(claimed, await self._insert(session, displaced))
        for received in rest:
            row = known.get(received.place)
            if row is not None and _is_open(row, received):
                await self._take_over(session, row, received)
                claimed = _together(claimed, Claimed(frozenset({received.place}), None))
        return claimed

    async def _known(
        self, session: AsyncSession, rest: Sequence[Received]
    ) -> tuple[dict[Place, InboxEvent], int | None]:
        """This consumer's rows of the same event, or of the same message whatever its key."""
        same_place = tuple_(col(InboxEvent.stream_seq), col(InboxEvent.stored_us))
        found = await session.exec(
            select(InboxEvent, _TRANSACTION[session.get_bind().dialect.name])
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

    async def processed(self, session: AsyncSession, received: Received) -> Known | None:
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
        return Known.SAME if _same_place(row, received) else Known.OTHER

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
            where=_is_free(body),
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


def kept(count: int, received: Received) -> ColumnElement[int]:
    """A replayed event begins anew: its letter is settled, and it has another place."""
    replayed = and_(
        col(InboxEvent.status) == InboxStatus.DEAD_LETTERED,
        or_(
            col(InboxEvent.stream_seq).is_distinct_from(received.seq),
            col(InboxEvent.stored_us) != received.stored_us,
        ),
    )
    return case((replayed, 0), else_=col(count))


def _together(one: Claimed, other: Claimed) -> Claimed:
    return Claimed(one.fresh | other.fresh, one.transaction or other.transaction)


def _is_open(row: InboxEvent, received: Received) -> bool:
    """Whether an event that is known is to be handled now.

    A dead letter that comes again on its old place only lost its acknowledgement; on a new
    place it is a replay.
    """
    if row.status == InboxStatus.PROCESSED:
        return False
    if row.status == InboxStatus.DEAD_LETTERED:
        return not _same_place(row, received)
    return True


def _same_place(row: InboxEvent, received: Received) -> bool:
    """Of a row without a moment, which an older version wrote, the sequence has to do."""
    return row.stream_seq == received.seq and row.stored_us in (None, received.stored_us)


def _is_free(body: bytes | None) -> ColumnElement[bool]:
    """Whether a row may be written over: its event has not taken effect, and no other message
    that is parked there would be lost."""
    unprocessed = col(InboxEvent.status) != InboxStatus.PROCESSED
    if body is None:
        return unprocessed
    return and_(unprocessed, or_(col(InboxEvent.body).is_(None), col(InboxEvent.body) == body))
