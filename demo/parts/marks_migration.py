"""the table of marks

Revision ID: 0003_marks
Revises: 0002_customers
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_marks"
down_revision = "0002_customers"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "marks",
        sa.Column("id", sa.Integer, sa.Identity(), nullable=False),
        sa.Column("event_id", sa.String(255), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_marks")),
    )


def downgrade() -> None:
    op.drop_table("marks")
