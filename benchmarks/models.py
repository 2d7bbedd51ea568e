"""The business row, as a service defines its tables."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import text
from sqlmodel import Field

from jetstream_bridge.core.naming import SQLModel


class Work(SQLModel, table=True):
    __tablename__ = "bench_work"

    id: int | None = Field(default=None, primary_key=True)
    ref: str
    note: str
    at: datetime = Field(
        default=None, sa_column_kwargs={"server_default": text("clock_timestamp()")}
    )
