"""The bridge's tables are apart from the service's: on metadata of their own.

So a service's `SQLModel.metadata` holds its own tables and nothing else, and what Alembic writes
for a service never speaks of the bridge's.
"""

from __future__ import annotations

from sqlalchemy import MetaData

from jetstream_bridge.core.naming import CONSTRAINT_NAMES, SQLModel


class BridgeTable(SQLModel):
    """The base of every table of the bridge's."""

    metadata = MetaData(naming_convention=CONSTRAINT_NAMES)
