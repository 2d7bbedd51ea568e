"""Things, their changes, and the effects of the other side's

Revision: 0003
Builds on: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_LOGS = ("changes", "effects", "echoes")  # they only grow, in the order of what happened


def upgrade() -> None:
    op.create_table(
        "things",
        sa.Column("resource", sa.String(20), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("resource", name="pk_things"),
    )
    for name in _LOGS:
        op.create_table(
            name,
            sa.Column("id", sa.Integer(), nullable=False),
            sa.Column("resource", sa.String(20), nullable=False),
            sa.Column("version", sa.Integer(), nullable=False),
            sa.Column("poison", sa.Boolean(), nullable=False, server_default=sa.false()),
            sa.PrimaryKeyConstraint("id", name=f"pk_{name}"),
        )


def downgrade() -> None:
    for name in (*_LOGS, "things"):
        op.drop_table(name)
