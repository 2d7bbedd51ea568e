"""The outbox's tables: an event is a row, written in the transaction of the change it tells of.

Any program may write one: what a row leaves out is filled in, and what could not travel as it
stands there is refused when it is written.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
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
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ColumnElement
from sqlmodel import Field

from jetstream_bridge.core.columns import JSONDocument, RowId, utc_now
from jetstream_bridge.core.tables import BridgeTable
from jetstream_bridge.outbox.constraints import CHECKS

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


class OutboxEvent(BridgeTable, table=True):
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
        # Each row dies twice: when it is sent, and when it is deleted. By default a vacuum waits
        # for a fifth of the table. No fillfactor: the status is in the indexes, so that no update
        # finds room beside the row without new entries.
        {
            "postgresql_with": {
                "autovacuum_vacuum_scale_factor": "0.02",
                "autovacuum_vacuum_threshold": "2000",
                "autovacuum_analyze_scale_factor": "0.02",
            }
        },
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
    # The last failed tries with their errors (`core/tries.py`); null of what never failed.
    tries: list[dict[str, Any]] | None = Field(default=None, sa_column=Column(JSONDocument))
    held: bool = Field(default=False, nullable=False, sa_column_kwargs={"server_default": false()})
    retry_at: datetime | None = None
    # `{resource_type}:{resource_id}` of the payload, what the row's order depends on (empty without
    # a resource_id: then it has none), a number from 0 to 15 that rows of one resource share, and
    # the size of payload and headers. A trigger fills them in, whoever inserts.
    resource: str = Field(
        default="",
        sa_column=Column(String(MAX_RESOURCE), nullable=False, server_default=text("''")),
    )
    lane: int = Field(
        default=0, sa_column=Column(SmallInteger, nullable=False, server_default=text("0"))
    )
    bytes: int = Field(
        default=0, sa_column=Column(Integer, nullable=False, server_default=text("0"))
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
          IF coalesce(NEW.payload ->> 'resource_id', '') = '' THEN
            NEW.resource := '';
            NEW.lane := NEW.id & {LANES - 1};
          ELSE
            NEW.resource := left(coalesce(NEW.payload ->> 'resource_type', '') || ':' ||
                                 (NEW.payload ->> 'resource_id'), {MAX_RESOURCE});
            NEW.lane := hashtext(NEW.resource) & {LANES - 1};
          END IF;
          NEW.bytes := octet_length(CAST(NEW.payload AS text)) +
                       octet_length(CAST(NEW.headers AS text));
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
          UPDATE jetstream_outbox_events SET
            resource = CASE coalesce(json_extract(NEW.payload, '$.resource_id'), '') WHEN '' THEN ''
              ELSE substr(coalesce(json_extract(NEW.payload, '$.resource_type'), '') || ':' ||
                          json_extract(NEW.payload, '$.resource_id'), 1, {MAX_RESOURCE}) END,
            bytes = length(CAST(NEW.payload AS BLOB)) + length(CAST(NEW.headers AS BLOB))
           WHERE id = NEW.id;
        END""",
    ),
}
for _dialect, _statements in _TRIGGERS.items():
    for _statement in (*CHECKS[_dialect], *_statements):
        event.listen(
            BridgeTable.metadata.tables["jetstream_outbox_events"],
            "after_create",
            DDL(_statement).execute_if(dialect=_dialect),  # type: ignore[no-untyped-call]
        )


class OutboxLane(BridgeTable, table=True):
    """A share of the outbox that one relay drains at a time; its row lock is the lease.

    The migration fills the table with lanes 0 to 15. `reopens` counts how often rows became ready
    again behind the back of other relays (see `floors`), `reopened` is the lowest id of the last
    time, and `floor` is one that holds for everybody. All three are 0 on SQLite.
    """

    __tablename__ = "jetstream_outbox_lanes"

    lane: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    reopens: int = Field(
        default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0"))
    )
    reopened: int = Field(
        default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0"))
    )
    floor: int = Field(
        default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0"))
    )
