"""The outbox: an event becomes a row in the transaction of the change that it tells of.

The row is written, and its id drawn, at the last moment before the commit, when the transaction
already holds the locks on the rows it changed. Two transactions that change the same row thus
draw their ids in the order in which they commit, and the relay, which goes by id, cannot tell
the later change first. An event published inside a savepoint that rolls back is gone with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    DDL,
    CheckConstraint,
    Column,
    Index,
    Integer,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    event,
    false,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ColumnElement
from sqlmodel import Field, SQLModel, col
from sqlmodel.ext.asyncio.session import AsyncSession

from .columns import JSONDocument, RowId, utc_now

logger = logging.getLogger(__name__)

LANES = 16
# Relays in other processes LISTEN on this channel (PostgreSQL only).
WAKE_CHANNEL = "jetstream_outbox"
MAX_RESOURCE = 255  # characters of the ordering key; longer ones share an order, which is safe


class OutboxStatus(StrEnum):
    """Where an event is on its way out.

    `PUBLISHING` is part of the table's vocabulary for tools that write it; the relay here holds
    a lock instead, which a crash releases, so no row is ever stuck in it.
    """

    PENDING = "pending"
    PUBLISHING = "publishing"
    SENT = "sent"
    FAILED = "failed"


class json_is_object(ColumnElement[bool]):  # noqa: N801
    """True for a payload that is a JSON object, and not JSON inside a JSON string."""

    inherit_cache = True


@compiles(json_is_object)
def _is_object(element: json_is_object, compiler: SQLCompiler, **kwargs: Any) -> str:
    return "json_typeof(payload) = 'object'"


@compiles(json_is_object, "sqlite")
def _sqlite_is_object(element: json_is_object, compiler: SQLCompiler, **kwargs: Any) -> str:
    return "json_valid(payload) AND json_type(payload) = 'object'"


_READY = text("status = 'pending' AND NOT held")
_HELD = text("held")
_RETRYING = text("retry_at IS NOT NULL")
_FAILED = text("status = 'failed'")
_PUBLISHING = text("status = 'publishing'")


def _partial(name: str, *columns: str, where: Any) -> Index:
    return Index(name, *columns, postgresql_where=where, sqlite_where=where)


class OutboxEvent(SQLModel, table=True):
    """One event on its way out.

    A plain `INSERT` that names `event_id`, `subject` and `payload` makes a valid row. `held`
    rows are out of the relay's sight: a row waiting for `retry_at`, or a follower of one.
    """

    __tablename__ = "jetstream_outbox_events"
    __table_args__ = (
        UniqueConstraint("event_id", name="uq_jetstream_outbox_events_event_id"),
        CheckConstraint(
            "status IN ('pending', 'publishing', 'sent', 'failed')",
            name="ck_jetstream_outbox_events_status",
        ),
        CheckConstraint(json_is_object(), name="ck_jetstream_outbox_events_payload"),
        # What the relay reads: its cost depends on what is ready, not on what lies around.
        _partial("ix_jetstream_outbox_events_ready", "lane", "id", where=_READY),
        _partial("ix_jetstream_outbox_events_held", "resource", "id", where=_HELD),
        _partial("ix_jetstream_outbox_events_retry_at", "lane", "retry_at", where=_RETRYING),
        _partial("ix_jetstream_outbox_events_failed", "id", where=_FAILED),
        # Empty, unless another program writes such rows; then statistics can tell, for nothing.
        _partial("ix_jetstream_outbox_events_publishing", "id", where=_PUBLISHING),
    )

    id: int | None = Field(default=None, sa_column=Column(RowId, primary_key=True))
    event_id: str = Field(sa_column=Column(String(255), nullable=False))
    subject: str = Field(sa_column=Column(String(1024), nullable=False))
    payload: dict[str, Any] = Field(sa_column=Column(JSONDocument, nullable=False))
    headers: dict[str, str] = Field(
        default_factory=dict,
        sa_column=Column(JSONDocument, nullable=False, server_default=text("'{}'")),
    )
    status: OutboxStatus = Field(
        default=OutboxStatus.PENDING,
        sa_column=Column(String(16), nullable=False, server_default=text("'pending'")),
    )
    attempts: int = Field(
        default=0, sa_column=Column(Integer, nullable=False, server_default=text("0"))
    )
    last_error: str | None = Field(default=None, sa_column=Column(Text))
    held: bool = Field(default=False, nullable=False, sa_column_kwargs={"server_default": false()})
    retry_at: datetime | None = None
    # `{resource_type}:{resource_id}` of the payload, what the row's order depends on, and a number
    # from 0 to 15 that rows of one resource share. A trigger fills both in, whoever inserts.
    resource: str = Field(
        default="",
        sa_column=Column(String(MAX_RESOURCE), nullable=False, server_default=text("''")),
    )
    lane: int = Field(
        default=0, sa_column=Column(SmallInteger, nullable=False, server_default=text("0"))
    )
    enqueued_at: datetime = Field(default=None, sa_column_kwargs={"server_default": utc_now()})
    sent_at: datetime | None = None
    created_at: datetime = Field(default=None, sa_column_kwargs={"server_default": utc_now()})
    updated_at: datetime = Field(default=None, sa_column_kwargs={"server_default": utc_now()})


# A trigger, and not generated columns: PostgreSQL parses the payload for those at each update
# too, which took 8 of the 13 ms of marking 1,000 rows as sent.
_TRIGGERS = {
    "postgresql": (
        f"""
        CREATE FUNCTION jetstream_outbox_place() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          NEW.resource := left(coalesce(NEW.payload ->> 'resource_type', '') || ':' ||
                               coalesce(NEW.payload ->> 'resource_id', ''), {MAX_RESOURCE});
          NEW.lane := hashtext(NEW.resource) & {LANES - 1};
          RETURN NEW;
        END $$""",
        """
        CREATE TRIGGER jetstream_outbox_place BEFORE INSERT ON jetstream_outbox_events
          FOR EACH ROW EXECUTE FUNCTION jetstream_outbox_place()""",
    ),
    # One relay drains an SQLite database, so one lane is enough.
    "sqlite": (
        f"""
        CREATE TRIGGER jetstream_outbox_place AFTER INSERT ON jetstream_outbox_events
        BEGIN
          UPDATE jetstream_outbox_events SET resource =
            substr(coalesce(json_extract(NEW.payload, '$.resource_type'), '') || ':' ||
                   coalesce(json_extract(NEW.payload, '$.resource_id'), ''), 1, {MAX_RESOURCE})
           WHERE id = NEW.id;
        END""",
    ),
}
for _dialect, _statements in _TRIGGERS.items():
    for _statement in _statements:
        event.listen(
            SQLModel.metadata.tables["jetstream_outbox_events"],
            "after_create",
            DDL(_statement).execute_if(dialect=_dialect),  # type: ignore[no-untyped-call]
        )


class OutboxLane(SQLModel, table=True):
    """A share of the outbox that one relay drains at a time; its row lock is the lease.

    The migration fills the table with lanes 0 to 15.
    """

    __tablename__ = "jetstream_outbox_lanes"

    lane: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))


@dataclass(slots=True, frozen=True)
class NewEvent:
    """An event that a transaction is about to announce."""

    event_id: str
    subject: str
    body: str  # the envelope, as it will travel
    headers: dict[str, str]
    resource: str = ""  # whose order it keeps when it is sent at once; empty: nobody's
    chosen: bool = False  # the id is the caller's, so another transaction may have it too


@dataclass(slots=True)
class _Pending:
    """The events of one session's transaction, each with the savepoint it was published in."""

    outbox: Outbox
    events: list[tuple[NewEvent, SessionTransaction | None]] = field(default_factory=list)
    committing: bool = False  # written, and the commit not yet confirmed


_KEY = "jetstream_bridge.outbox"


class Outbox:
    """Collects a session's events and writes them when it commits."""

    def __init__(self, *, on_commit: Callable[[], None] | None = None, notify: bool = True) -> None:
        """`on_commit` is called after a commit with events; it wakes this process' relay.

        `notify` tells other processes' relays too; it costs one statement per transaction and
        is not needed where a relay runs in this process.
        """
        self._on_commit = on_commit
        self._notify = notify

    def add(self, session: AsyncSession, new: NewEvent) -> None:
        """Announce `new` when `session` commits; nothing is written before."""
        if not session.in_transaction():
            session.sync_session.begin()  # else a rollback would pass unnoticed
        pending: _Pending = session.info.setdefault(_KEY, _Pending(self))
        pending.events.append((new, session.sync_session.get_nested_transaction()))

    def pending(self, session: AsyncSession) -> list[NewEvent]:
        """Return what `session` would announce if it committed now, in order."""
        pending: _Pending | None = session.info.get(_KEY)
        return [new for new, _ in pending.events] if pending else []

    def _write(self, session: Session, events: list[NewEvent]) -> None:
        dialect = session.get_bind().dialect.name
        make = postgresql.insert if dialect == "postgresql" else sqlite.insert
        # Publishing one event id twice is one event: the first row stays.
        statement = make(OutboxEvent).on_conflict_do_nothing(index_elements=["event_id"])
        chosen = {new.event_id for new in events if new.chosen}
        rows = [
            {
                "event_id": new.event_id,
                "subject": new.subject,
                "payload": new.body,
                "headers": new.headers,
            }
            for new in events
        ]
        if chosen:
            written = session.connection().scalars(
                statement.returning(col(OutboxEvent.event_id)), rows
            )
            _tell_of_lost_races(chosen - set(written))
        else:
            session.connection().execute(statement, rows)
        if self._notify and dialect == "postgresql":
            session.connection().execute(
                text("SELECT pg_notify(:channel, '')"), {"channel": WAKE_CHANNEL}
            )


def _tell_of_lost_races(event_ids: set[str]) -> None:
    """Another transaction committed these ids after this one had looked for them.

    Its events are announced; this transaction's changes are as good as they were.
    """
    for event_id in sorted(event_ids):
        logger.warning(
            "event %s was published by another transaction meanwhile; it is announced once",
            event_id,
            extra={"event_id": event_id},
        )


@event.listens_for(Session, "before_commit")
def _before_commit(session: Session) -> None:
    pending: _Pending | None = session.info.get(_KEY)
    if pending is None or not pending.events:
        return
    savepoint = session.get_nested_transaction()
    if savepoint is not None:
        _release(pending, savepoint)
        return
    session.flush()  # takes the locks on the business rows before the ids are drawn
    events = [new for new, _ in pending.events]
    pending.events.clear()
    pending.outbox._write(session, events)
    pending.committing = True


def _release(pending: _Pending, savepoint: SessionTransaction) -> None:
    """The events of a savepoint that is released belong to the transaction around it."""
    parent = savepoint.parent
    around = parent if parent is not None and parent.nested else None
    pending.events = [
        (new, around if published_in is savepoint else published_in)
        for new, published_in in pending.events
    ]


@event.listens_for(Session, "after_commit")
def _after_commit(session: Session) -> None:
    pending: _Pending | None = session.info.get(_KEY)
    if pending is None or not pending.committing or session.in_nested_transaction():
        return
    pending.committing = False
    if pending.outbox._on_commit is not None:
        pending.outbox._on_commit()


@event.listens_for(Session, "after_transaction_end")
def _after_end(session: Session, ended: SessionTransaction) -> None:
    """What ended without a commit or a release takes its events with it."""
    pending: _Pending | None = session.info.get(_KEY)
    if pending is None:
        return
    if ended.nested:
        pending.events = [
            (new, published_in) for new, published_in in pending.events if published_in is not ended
        ]
    elif ended.parent is None:
        pending.events.clear()
        pending.committing = False
