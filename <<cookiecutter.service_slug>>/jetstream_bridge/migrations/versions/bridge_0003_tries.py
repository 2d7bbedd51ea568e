"""The bridge's tables: the tries of an event, each with its error

Revision: bridge_0003
Builds on: bridge_0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "bridge_0003"
down_revision = "bridge_0002"
branch_labels = None
depends_on = None

_TABLES = ("jetstream_outbox_events", "jetstream_inbox_events")


def upgrade() -> None:
    """Null in rows that are there, and in those of events that never failed."""
    for table in _TABLES:
        op.add_column(table, sa.Column("tries", sa.JSON()))


def downgrade() -> None:
    for table in _TABLES:
        op.drop_column(table, "tries")
