"""The bridge's tables: what keeps the relay's pace beside old snapshots and many rows

Revision: bridge_0004
Builds on: bridge_0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "bridge_0004"
down_revision = "bridge_0003"
branch_labels = None
depends_on = None

_LANES = "jetstream_outbox_lanes"
_COLUMNS = ("reopens", "reopened", "floor")
_OPTIONS = {
    "jetstream_outbox_events": {
        "autovacuum_vacuum_scale_factor": "0.02",
        "autovacuum_vacuum_threshold": "2000",
        "autovacuum_analyze_scale_factor": "0.02",
    },
    "jetstream_inbox_events": {
        "autovacuum_vacuum_scale_factor": "0.02",
        "autovacuum_vacuum_insert_scale_factor": "0.05",
        "autovacuum_analyze_scale_factor": "0.02",
    },
}


def upgrade() -> None:
    """Relays of before do not count what they reopen: stop them before those of this version."""
    for name in _COLUMNS:
        op.add_column(
            _LANES, sa.Column(name, sa.BigInteger(), nullable=False, server_default=sa.text("0"))
        )
    if op.get_bind().dialect.name == "postgresql":
        for table, options in _OPTIONS.items():
            given = ", ".join(f"{name} = {value}" for name, value in options.items())
            op.execute(f"ALTER TABLE {table} SET ({given})")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table, options in _OPTIONS.items():
            op.execute(f"ALTER TABLE {table} RESET ({', '.join(options)})")
    for name in _COLUMNS:
        op.drop_column(_LANES, name)
