"""The inbox: which events have taken effect here, written by the transaction in which they did.

A row is `processed` only because the handler's work was committed with it. The key is
(`consumer`, `event_id`), so two durables in one database handle the same event each once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from .columns import JSONDocument, RowId, compact, utc_now


class InboxStatus(StrEnum):
    """What became of an event here. `RECEIVED` and `PROCESSING` are left to other tools: here a
    row appears together with its outcome, so none can be stuck half-way."""

    RECEIVED = "received"
    PROCESSING = "processing"
    PROCESSED = "processed"
    FAILED = "failed"
    DEAD_LETTERED = "dead_lettered"


class InboxEvent(SQLModel, table=True):
    """One event as one durable consumer of this service met it."""

    __tablename__ = "jetstream_inbox_events"
    __table_args__ = (
        UniqueConstraint("consumer", "event_id", name="uq_jetstream_inbox_events_consumer"),
        UniqueConstraint("stream", "stream_seq", name="uq_jetstream_inbox_events_stream"),
        CheckConstraint(
            "status IN ('received', 'processing', 'processed', 'failed', 'dead_lettered')",
            name="ck_jetstream_inbox_events_status",
        ),
        Index("ix_jetstream_inbox_events_processed_at", "processed_at"),
        Index(
            "ix_jetstream_inbox_events_unprocessed",
            "status",
            "id",
            postgresql_where=text("status <> 'processed'"),
            sqlite_where=text("status <> 'processed'"),
        ),
    )

    id: int | None = Field(default=None, sa_column=Column(RowId, primary_key=True))
    consumer: str = Field(sa_column=Column(String(600), nullable=False))
    event_id: str = Field(sa_column=Column(String(255), nullable=False))
    subject: str = Field(sa_column=Column(String(1024), nullable=False))
    payload: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONDocument))
    # Only of an event that is parked here because there are no dead letters (USE_DLQ=false):
    # its bytes as they came, which need not be JSON.
    body: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    headers: dict[str, str] = Field(
        default_factory=dict,
        sa_column=Column(JSONDocument, nullable=False, server_default=text("'{}'")),
    )
    stream: str | None = Field(default=None, sa_column=Column(String(255)))
    stream_seq: int | None = Field(default=None, sa_column=Column(BigInteger))
    deliveries: int = Field(
        default=0, sa_column=Column(Integer, nullable=False, server_default=text("0"))
    )
    status: InboxStatus = Field(
        default=InboxStatus.RECEIVED,
        sa_column=Column(String(16), nullable=False, server_default=text("'received'")),
    )
    last_error: str | None = Field(default=None, sa_column=Column(Text))
    received_at: datetime = Field(default=None, sa_column_kwargs={"server_default": utc_now()})
    processed_at: datetime | None = None
    created_at: datetime = Field(default=None, sa_column_kwargs={"server_default": utc_now()})
    updated_at: datetime = Field(default=None, sa_column_kwargs={"server_default": utc_now()})


@dataclass(frozen=True, slots=True)
class Received:
    """What the inbox keeps of one delivery."""

    key: str  # the event id
    subject: str
    body: str | None  # the envelope as it came; None when it is no JSON object
    headers: dict[str, str]
    stream: str
    seq: int
    deliveries: int


# One statement for a whole batch. Rows are written as `processed` at once: they become visible
# only with the handlers' work. What does not come back was here before, by its key or by its
# place in the stream.
_CLAIM = {
    "postgresql": text("""
        INSERT INTO jetstream_inbox_events
               (consumer, event_id, subject, payload, headers, stream, stream_seq, deliveries,
                status, processed_at)
        SELECT :consumer, r.event_id, r.subject, CAST(r.payload AS json), CAST(r.headers AS json),
               :stream, r.seq, r.deliveries, 'processed', now()
          FROM unnest(CAST(:keys AS text[]), CAST(:subjects AS text[]), CAST(:bodies AS text[]),
                      CAST(:headers AS text[]), CAST(:seqs AS bigint[]),
                      CAST(:deliveries AS integer[]))
               WITH ORDINALITY AS r(event_id, subject, payload, headers, seq, deliveries, position)
         ORDER BY r.position
            ON CONFLICT DO NOTHING
        RETURNING stream_seq"""),
    "sqlite": text("""
        INSERT INTO jetstream_inbox_events
               (consumer, event_id, subject, payload, headers, stream, stream_seq, deliveries,
                status, processed_at)
        SELECT :consumer, value ->> 0, value ->> 1, value ->> 2, value ->> 3, :stream,
               value ->> 4, value ->> 5, 'processed',
               strftime('%Y-%m-%d %H:%M:%f000', 'now')
          FROM json_each(:rows) WHERE true ORDER BY key
            ON CONFLICT DO NOTHING
        RETURNING stream_seq"""),
}


class Inbox:
    """The inbox of one durable consumer. Every method works in the caller's transaction."""

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer

    async def claim(self, session: AsyncSession, batch: Sequence[Received]) -> set[int]:
        """Write `batch` as processed; return the stream sequences that are to be handled.

        The others have taken effect before. Costs one statement, unless there are such.
        """
        if not batch:
            return set()
        fresh = await self._insert(session, batch)
        rest = [received for received in batch if received.seq not in fresh]
        if rest:
            fresh |= await self._claim_known(session, rest)
        return fresh

    async def _insert(self, session: AsyncSession, batch: Sequence[Received]) -> set[int]:
        connection = await session.connection()
        dialect = connection.dialect.name
        result = await connection.execute(_CLAIM[dialect], self._parameters(dialect, batch))
        return set(result.scalars())

    def _parameters(self, dialect: str, batch: Sequence[Received]) -> dict[str, object]:
        common: dict[str, object] = {"consumer": self._consumer, "stream": batch[0].stream}
        headers = [compact(dict(r.headers)) for r in batch]
        if dialect == "sqlite":
            rows = [
                [r.key, r.subject, r.body, h, r.seq, r.deliveries]
                for r, h in zip(batch, headers, strict=True)
            ]
            return common | {"rows": compact(rows)}
        return common | {
            "keys": [r.key for r in batch],
            "subjects": [r.subject for r in batch],
            "bodies": [r.body for r in batch],
            "headers": headers,
            "seqs": [r.seq for r in batch],
            "deliveries": [r.deliveries for r in batch],
        }

    async def _claim_known(self, session: AsyncSession, rest: Sequence[Received]) -> set[int]:
        """Decide about events whose key, or whose place in the stream, is in the table."""
        found = await session.exec(
            select(InboxEvent)
            .where(
                InboxEvent.consumer == self._consumer,
                col(InboxEvent.event_id).in_([r.key for r in rest]),
            )
            .with_for_update()
        )
        known = {row.event_id: row for row in found}
        fresh: set[int] = set()
        displaced = [received for received in rest if received.key not in known]
        if displaced:
            await self._forget_places(session, displaced)
            fresh |= await self._insert(session, displaced)
        for received in rest:
            row = known.get(received.key)
            if row is not None and _is_open(row, received):
                await self._take_over(session, row, received)
                fresh.add(received.seq)
        return fresh

    async def _forget_places(self, session: AsyncSession, displaced: Sequence[Received]) -> None:
        """A stream that was deleted and made anew counts from 1 again.

        The old rows keep their events; only their places in the old stream are forgotten.
        """
        await session.exec(
            update(InboxEvent)
            .where(
                col(InboxEvent.stream) == displaced[0].stream,
                col(InboxEvent.stream_seq).in_([r.seq for r in displaced]),
            )
            .values(stream_seq=None)
            .execution_options(synchronize_session=False)
        )

    async def _take_over(self, session: AsyncSession, row: InboxEvent, received: Received) -> None:
        row.status = InboxStatus.PROCESSED
        row.processed_at = row.updated_at = datetime.now(UTC)
        row.last_error = None
        row.deliveries = received.deliveries
        if row.stream_seq != received.seq:
            await self._forget_places(session, [received])
            row.stream, row.stream_seq = received.stream, received.seq
        session.add(row)
        await session.flush()

    async def is_processed(self, session: AsyncSession, key: str) -> bool:
        """Whether the event `key` has taken effect."""
        found = await session.exec(
            select(InboxEvent.id).where(
                InboxEvent.consumer == self._consumer,
                InboxEvent.event_id == key,
                InboxEvent.status == InboxStatus.PROCESSED,
            )
        )
        return found.first() is not None

    async def record(
        self,
        session: AsyncSession,
        received: Received,
        status: InboxStatus,
        error: str,
        *,
        body: bytes | None = None,
    ) -> bool:
        """Write that an event failed or was dead-lettered; False when it had been processed.

        `body` parks the message itself, for a service without dead letters.
        """
        make = (
            postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
        )
        now = datetime.now(UTC)
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
            deliveries=received.deliveries,
            status=status,
            last_error=error,
        )
        statement = insert.on_conflict_do_update(
            index_elements=["consumer", "event_id"],
            set_={
                "status": status,
                "last_error": error,
                "body": body,
                "deliveries": received.deliveries,
                "stream": received.stream,
                "stream_seq": received.seq,
                "updated_at": now,
            },
            where=col(InboxEvent.status) != InboxStatus.PROCESSED,
        ).returning(col(InboxEvent.id))
        connection = await session.connection()
        return (await connection.execute(statement)).first() is not None

    async def _forget_other_places(self, session: AsyncSession, received: Received) -> None:
        await session.exec(
            update(InboxEvent)
            .where(
                col(InboxEvent.stream) == received.stream,
                col(InboxEvent.stream_seq) == received.seq,
                col(InboxEvent.event_id) != received.key,
            )
            .values(stream_seq=None)
            .execution_options(synchronize_session=False)
        )


def _is_open(row: InboxEvent, received: Received) -> bool:
    """Whether an event that is known is to be handled now.

    A dead letter that comes again on its old place only lost its acknowledgement; on a new
    place it is a replay.
    """
    if row.status == InboxStatus.PROCESSED:
        return False
    if row.status == InboxStatus.DEAD_LETTERED:
        return row.stream_seq != received.seq
    return True
