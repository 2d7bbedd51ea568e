"""The bridge's tables: outbox, lanes, inbox, leases, pauses

Revision: 0001
Builds on: nothing

The expressions stand here as they were on the day of this migration, not imported: a migration
must do the same for ever.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = ("jetstream_bridge",)
depends_on = None

_LANES = 16

_PLACE = {
    "postgresql": (
        """
        CREATE FUNCTION jetstream_outbox_place() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          NEW.resource := left(coalesce(NEW.payload ->> 'resource_type', '') || ':' ||
                               coalesce(NEW.payload ->> 'resource_id', ''), 255);
          NEW.lane := hashtext(NEW.resource) & 15;
          RETURN NEW;
        END $$""",
        """
        CREATE TRIGGER jetstream_outbox_place BEFORE INSERT ON jetstream_outbox_events
          FOR EACH ROW EXECUTE FUNCTION jetstream_outbox_place()""",
    ),
    "sqlite": (
        """
        CREATE TRIGGER jetstream_outbox_place AFTER INSERT ON jetstream_outbox_events
        BEGIN
          UPDATE jetstream_outbox_events SET resource =
            substr(coalesce(json_extract(NEW.payload, '$.resource_type'), '') || ':' ||
                   coalesce(json_extract(NEW.payload, '$.resource_id'), ''), 1, 255)
           WHERE id = NEW.id;
        END""",
    ),
}
_PAYLOAD_IS_OBJECT = {
    "postgresql": "json_typeof(payload) = 'object'",
    "sqlite": "json_valid(payload) AND json_type(payload) = 'object'",
}
_NOW = {
    "postgresql": "now()",
    "sqlite": "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))",  # CURRENT_TIMESTAMP has whole seconds
}


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    _create_outbox(dialect)
    _create_lanes()
    _create_inbox(dialect)
    _create_leases()
    _create_pauses(dialect)


def downgrade() -> None:
    for table in (
        "jetstream_pauses",
        "jetstream_leases",
        "jetstream_inbox_events",
        "jetstream_outbox_lanes",
        "jetstream_outbox_events",
    ):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION jetstream_outbox_place")


def _create_outbox(dialect: str) -> None:
    table = "jetstream_outbox_events"
    op.create_table(
        table,
        _row_id(),
        sa.Column("event_id", sa.String(255), nullable=False),
        sa.Column("subject", sa.String(1024), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("headers", sa.JSON(), nullable=False, server_default=sa.text("'{}'")),
        sa.Column("status", sa.String(16), nullable=False, server_default=sa.text("'pending'")),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("last_error", sa.Text()),
        sa.Column("held", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("retry_at", sa.DateTime(timezone=True)),
        sa.Column("resource", sa.String(255), nullable=False, server_default=sa.text("''")),
        sa.Column("lane", sa.SmallInteger(), nullable=False, server_default=sa.text("0")),
        _moment("enqueued_at", dialect),
        sa.Column("sent_at", sa.DateTime(timezone=True)),
        _moment("created_at", dialect),
        _moment("updated_at", dialect),
        sa.PrimaryKeyConstraint("id", name=f"pk_{table}"),
        sa.UniqueConstraint("event_id", name=f"uq_{table}_event_id"),
        sa.CheckConstraint(
            "status IN ('pending', 'publishing', 'sent', 'failed')", name=f"ck_{table}_status"
        ),
        sa.CheckConstraint(_PAYLOAD_IS_OBJECT[dialect], name=f"ck_{table}_payload"),
    )
    _partial_index(table, "ready", ["lane", "id"], "status = 'pending' AND NOT held")
    _partial_index(table, "held", ["resource", "id"], "held")
    _partial_index(table, "retry_at", ["lane", "retry_at"], "retry_at IS NOT NULL")
    _partial_index(table, "failed", ["id"], "status = 'failed'")
    _partial_index(table, "publishing", ["id"], "status = 'publishing'")
    for statement in _PLACE[dialect]:
        op.execute(statement)


def _create_lanes() -> None:
    lanes = op.create_table(
        "jetstream_outbox_lanes",
        sa.Column("lane", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("lane", name="pk_jetstream_outbox_lanes"),
    )
    op.bulk_insert(lanes, [{"lane": lane} for lane in range(_LANES)])


def _create_inbox(dialect: str) -> None:
    table = "jetstream_inbox_events"
    op.create_table(
        table,
        _row_id(),
        sa.Column("consumer", sa.String(600), nullable=False),
        sa.Column("event_id", sa.String(255), nullable=False),
        sa.Column("subject", sa.String(1024), nullable=False),
        sa.Column("payload", sa.JSON()),
        sa.Column("body", sa.LargeBinary()),
        sa.Column("headers", sa.JSON(), nullable=False, server_default=sa.text("'{}'")),
        sa.Column("stream", sa.String(255)),
        sa.Column("stream_seq", sa.BigInteger()),
        sa.Column("deliveries", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("status", sa.String(16), nullable=False, server_default=sa.text("'received'")),
        sa.Column("last_error", sa.Text()),
        _moment("received_at", dialect),
        sa.Column("processed_at", sa.DateTime(timezone=True)),
        _moment("created_at", dialect),
        _moment("updated_at", dialect),
        sa.PrimaryKeyConstraint("id", name=f"pk_{table}"),
        sa.UniqueConstraint("consumer", "event_id", name=f"uq_{table}_consumer"),
        sa.UniqueConstraint("stream", "stream_seq", name=f"uq_{table}_stream"),
        sa.CheckConstraint(
            "status IN ('received', 'processing', 'processed', 'failed', 'dead_lettered')",
            name=f"ck_{table}_status",
        ),
    )
    op.create_index(f"ix_{table}_processed_at", table, ["processed_at"])
    _partial_index(table, "unprocessed", ["status", "id"], "status <> 'processed'")


def _create_leases() -> None:
    op.create_table(
        "jetstream_leases",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_jetstream_leases"),
    )


def _create_pauses(dialect: str) -> None:
    op.create_table(
        "jetstream_pauses",
        sa.Column("name", sa.String(64), nullable=False),
        _moment("since", dialect),
        sa.PrimaryKeyConstraint("name", name="pk_jetstream_pauses"),
    )


def _row_id() -> sa.Column[int]:
    # SQLite numbers rows by itself only for a column declared INTEGER.
    return sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False)


def _moment(name: str, dialect: str) -> sa.Column[object]:
    return sa.Column(
        name, sa.DateTime(timezone=True), nullable=False, server_default=sa.text(_NOW[dialect])
    )


def _partial_index(table: str, name: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(
        f"ix_{table}_{name}",
        table,
        columns,
        postgresql_where=condition,
        sqlite_where=condition,
    )
