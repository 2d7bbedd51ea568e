"""The inbox table: one row for each event that a durable of this service met.

(`consumer`, `event_id`) is unique, and so is the place in the stream: sequence and moment.
"""

from __future__ import annotations

from datetime import datetime
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
)
from sqlmodel import Field

from jetstream_bridge.core.columns import JSONDocument, RowId, utc_now
from jetstream_bridge.core.tables import BridgeTable


class InboxStatus(StrEnum):
    """What became of an event here. A row appears together with its outcome, but for a run by
    itself, which is noted as `PROCESSING` before it begins. One that was stopped, and had not
    failed before, is `RECEIVED`."""

    RECEIVED = "received"
    PROCESSING = "processing"
    PROCESSED = "processed"
    FAILED = "failed"
    DEAD_LETTERED = "dead_lettered"


class InboxEvent(BridgeTable, table=True):
    """One event as one durable consumer of this service met it."""

    __tablename__ = "jetstream_inbox_events"
    __table_args__ = (
        UniqueConstraint("consumer", "event_id", name="uq_jetstream_inbox_events_consumer"),
        UniqueConstraint(
            "stream", "stream_seq", "stored_us", name="uq_jetstream_inbox_events_stream"
        ),
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
        # Rows come with their outcome and are hardly ever updated, so no fillfactor; but a count
        # reads the table where no vacuum has passed since.
        {
            "postgresql_with": {
                "autovacuum_vacuum_scale_factor": "0.02",
                "autovacuum_vacuum_insert_scale_factor": "0.05",
                "autovacuum_analyze_scale_factor": "0.02",
            }
        },
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
    # Microseconds since 1970 at which the stream stored it; unknown of rows of older versions.
    stored_us: int | None = Field(default=None, sa_column=Column(BigInteger))
    deliveries: int = Field(
        default=0, sa_column=Column(Integer, nullable=False, server_default=text("0"))
    )
    # Runs of the handler that failed by themselves; an outage or a stop in the middle is none.
    failures: int = Field(
        default=0, sa_column=Column(Integer, nullable=False, server_default=text("0"))
    )
    # Runs by itself that began and did not end: the process died in them, or one is under way.
    unfinished: int = Field(
        default=0, sa_column=Column(Integer, nullable=False, server_default=text("0"))
    )
    status: InboxStatus = Field(
        default=InboxStatus.RECEIVED,
        sa_column=Column(String(16), nullable=False, server_default=text("'received'")),
    )
    last_error: str | None = Field(default=None, sa_column=Column(Text))
    # The last failed tries with their errors (`core/tries.py`); null of what never failed.
    tries: list[dict[str, Any]] | None = Field(default=None, sa_column=Column(JSONDocument))
    received_at: datetime = Field(default=None, sa_column_kwargs={"server_default": utc_now()})
    processed_at: datetime | None = None
    created_at: datetime = Field(default=None, sa_column_kwargs={"server_default": utc_now()})
    updated_at: datetime = Field(default=None, sa_column_kwargs={"server_default": utc_now()})
