"""The service's own tables.

A row with another app's name in `origin` is a replica: only that app's events change it, each
one only if its version is newer. A deleted replica keeps its row and version, without the
personal data, so that a late event cannot bring it back.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlmodel import Field
from uuid_utils import uuid7

from jetstream_bridge import SQLModel


def new_id() -> str:
    """A UUID of version 7: unique everywhere, and in order of creation within one process."""
    return str(uuid7())


def now() -> datetime:
    return datetime.now(UTC)


class Customer(SQLModel, table=True):
    __tablename__ = "customers"

    id: str = Field(default_factory=new_id, primary_key=True, max_length=255)
    name: str
    email: str
    version: int = 1
    origin: str
    updated_at: datetime = Field(default_factory=now)
    deleted_at: datetime | None = None
