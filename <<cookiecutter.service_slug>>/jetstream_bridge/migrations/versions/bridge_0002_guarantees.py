"""The bridge's tables: what keeps the guarantees where an attack broke them

Revision: bridge_0002
Builds on: 0001

Each part says which guarantee it is for. The expressions stand here as they were on the day of
this migration, not imported: a migration must do the same for ever.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "bridge_0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Where an event belongs. Without a resource_id it has no order to keep, so it is nobody's neighbour
# and can go in any lane.
_PLACE = {
    "postgresql": """
        CREATE OR REPLACE FUNCTION jetstream_outbox_place() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          IF coalesce(NEW.payload ->> 'resource_id', '') = '' THEN
            NEW.resource := '';
            NEW.lane := NEW.id & 15;
          ELSE
            NEW.resource := left(coalesce(NEW.payload ->> 'resource_type', '') || ':' ||
                                 (NEW.payload ->> 'resource_id'), 255);
            NEW.lane := hashtext(NEW.resource) & 15;
          END IF;
          NEW.bytes := octet_length(CAST(NEW.payload AS text)) +
                       octet_length(CAST(NEW.headers AS text));
          RETURN NEW;
        END $$""",
    "sqlite": """
        CREATE TRIGGER jetstream_outbox_place AFTER INSERT ON jetstream_outbox_events
        BEGIN
          UPDATE jetstream_outbox_events SET
            resource = CASE coalesce(json_extract(NEW.payload, '$.resource_id'), '') WHEN '' THEN ''
              ELSE substr(coalesce(json_extract(NEW.payload, '$.resource_type'), '') || ':' ||
                          json_extract(NEW.payload, '$.resource_id'), 1, 255) END,
            bytes = length(CAST(NEW.payload AS BLOB)) + length(CAST(NEW.headers AS BLOB))
           WHERE id = NEW.id;
        END""",
}
_PLACE_BEFORE = {
    "postgresql": """
        CREATE OR REPLACE FUNCTION jetstream_outbox_place() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          NEW.resource := left(coalesce(NEW.payload ->> 'resource_type', '') || ':' ||
                               coalesce(NEW.payload ->> 'resource_id', ''), 255);
          NEW.lane := hashtext(NEW.resource) & 15;
          RETURN NEW;
        END $$""",
    "sqlite": """
        CREATE TRIGGER jetstream_outbox_place AFTER INSERT ON jetstream_outbox_events
        BEGIN
          UPDATE jetstream_outbox_events SET resource =
            substr(coalesce(json_extract(NEW.payload, '$.resource_type'), '') || ':' ||
                   coalesce(json_extract(NEW.payload, '$.resource_id'), ''), 1, 255)
           WHERE id = NEW.id;
        END""",
}
_SIZE = {
    "postgresql": "octet_length(CAST(payload AS text)) + octet_length(CAST(headers AS text))",
    "sqlite": "length(CAST(payload AS BLOB)) + length(CAST(headers AS BLOB))",
}

# What the wire could not carry is refused when it is written, whoever writes.
# Blanks of any kind, and control characters: `*`, `>` and the dot are NATS' own.
_PG_TOKEN = r"[^.*>\u0001-\u0020\u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"

# Headers as they mostly are, told at a glance: parsing them took as long as all else. Names that
# begin with an N are looked at whole.
_PG_VALUE = r"([!#-\[\]-~]([ !#-\[\]-~]*[!#-\[\]-~])?)?"
_PG_PLAIN = rf'^\{{("[a-mo-zA-MO-Z_][-_0-9A-Za-z]*":"{_PG_VALUE}"[,\}}])+$'

_CHECK_POSTGRESQL = (
    rf"""
    CREATE FUNCTION jetstream_outbox_check() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
      flaw text;
      about text;
    BEGIN
      IF NEW.event_id COLLATE "C" !~ '^[!-~]([ -~]*[!-~])?$' THEN
        about := 'event_id';
        flaw := 'event_id is not plain ASCII without outer blanks';
      ELSIF octet_length(NEW.subject) > 1024
         OR NEW.subject COLLATE "C" !~ '^{_PG_TOKEN}(\.{_PG_TOKEN})*$' THEN
        about := 'subject';
        flaw := 'subject is not 1 to 1024 bytes of tokens with dots, without blanks or wildcards';
      ELSIF json_typeof(NEW.headers) <> 'object' THEN
        about := 'headers';
        flaw := 'headers are no JSON object';
      ELSIF CAST(NEW.headers AS text) <> '{{}}'
        AND CAST(NEW.headers AS text) COLLATE "C" !~ '{_PG_PLAIN}' THEN
        about := 'headers';
        SELECT 'header ' || h.key || ' has a name or a value that is not printable ASCII, ' ||
               'a value that is no text or has outer blanks, or a name that begins with Nats-'
          INTO flaw FROM json_each(NEW.headers) AS h
         WHERE h.key COLLATE "C" !~ '^[-!#$\u0025&''*+.^_`|~0-9A-Za-z]+$'
            OR (left(lower(h.key), 5) = 'nats-' AND lower(h.key) <> 'nats-msg-id')
            OR json_typeof(h.value) <> 'string'
            OR json_extract_path_text(h.value, VARIADIC '{{}}') COLLATE "C" !~
                '^([!-~]([ -~]*[!-~])?)?$'
         LIMIT 1;
      END IF;
      IF flaw IS NULL AND TG_OP = 'INSERT' AND (
           least(NEW.enqueued_at, NEW.created_at, NEW.updated_at, NEW.retry_at, NEW.sent_at)
             < '1970-01-01 00:00:00+00'
        OR greatest(NEW.enqueued_at, NEW.created_at, NEW.updated_at, NEW.retry_at, NEW.sent_at)
             >= '9999-01-01 00:00:00+00') THEN
        about := 'times';
        flaw := 'a time is not between the years 1970 and 9998';
      END IF;
      IF flaw IS NOT NULL THEN
        RAISE check_violation USING MESSAGE = flaw, TABLE = TG_TABLE_NAME, COLUMN = about,
          CONSTRAINT = 'ck_jetstream_outbox_events_' || about;
      END IF;
      RETURN NEW;
    END $$""",
    """
    CREATE TRIGGER jetstream_outbox_check
      BEFORE INSERT OR UPDATE OF event_id, subject, headers ON jetstream_outbox_events
      FOR EACH ROW EXECUTE FUNCTION jetstream_outbox_check()""",
)

_SQLITE_BLANKS = (
    "'*[' || char(1) || '-' || char(32) || char(127) || '-' || char(160) || char(5760) ||"
    " char(8192) || '-' || char(8202) || char(8232, 8233, 8239, 8287, 12288) || ']*'"
)
_SUBJECT_RULE = "subject is not 1 to 1024 bytes of tokens with dots, without blanks or wildcards"
_HEADER_RULE = (
    "a header has a name or a value that is not printable ASCII, a value that is no text or has "
    "outer blanks, or a name that begins with Nats-"
)
_SQLITE_FLAWS = f"""
      SELECT RAISE(ABORT, 'event_id is not plain ASCII without outer blanks')
       WHERE typeof(NEW.event_id) <> 'text' OR NEW.event_id = '' OR length(NEW.event_id) > 255
          OR instr(NEW.event_id, char(0)) OR NEW.event_id GLOB '*[^ -~]*'
          OR trim(NEW.event_id) <> NEW.event_id;
      SELECT RAISE(ABORT, '{_SUBJECT_RULE}')
       WHERE typeof(NEW.subject) <> 'text' OR length(CAST(NEW.subject AS BLOB)) > 1024
          OR instr('.' || NEW.subject || '.', '..') OR instr(NEW.subject, char(0))
          OR NEW.subject GLOB '*[*>]*' OR NEW.subject GLOB {_SQLITE_BLANKS};
      SELECT RAISE(ABORT, 'headers are no JSON object')
       WHERE typeof(NEW.headers) <> 'text'
          OR CASE WHEN json_valid(NEW.headers) THEN json_type(NEW.headers) END IS NOT 'object';
      SELECT RAISE(ABORT, '{_HEADER_RULE}')
       WHERE EXISTS (SELECT 1 FROM json_each(NEW.headers)
                      WHERE key = '' OR instr(key, char(0))
                         OR key GLOB '*[^-!#$' || char(37) || '&''*+.^_`|~0-9A-Za-z]*'
                         OR (lower(substr(key, 1, 5)) = 'nats-' AND lower(key) <> 'nats-msg-id')
                         OR type <> 'text' OR value GLOB '*[^ -~]*' OR instr(value, char(0))
                         OR trim(value) <> value);"""
_SQLITE_TIME = "'[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9] [0-9][0-9]:[0-9][0-9]:[0-9][0-9]*'"
_SQLITE_TIMES = "".join(
    f"""
      SELECT RAISE(ABORT, '{name} is no time like 2026-01-02 03:04:05')
       WHERE NEW.{name} IS NOT NULL
         AND (typeof(NEW.{name}) <> 'text' OR NEW.{name} NOT GLOB {_SQLITE_TIME}
              OR substr(NEW.{name}, 20) GLOB '*[^.0-9]*');"""
    for name in ("enqueued_at", "created_at", "updated_at", "retry_at", "sent_at")
)
_SQLITE_NUMBERS = """
      SELECT RAISE(ABORT, 'attempts is no number, held is not 0 or 1, or lane is not left out')
       WHERE typeof(NEW.attempts) <> 'integer' OR NEW.held NOT IN (0, 1) OR NEW.lane <> 0;"""

_CHECK_SQLITE = (
    f"""
    CREATE TRIGGER jetstream_outbox_check BEFORE INSERT ON jetstream_outbox_events
    BEGIN{_SQLITE_FLAWS}{_SQLITE_TIMES}{_SQLITE_NUMBERS}
    END""",
    f"""
    CREATE TRIGGER jetstream_outbox_check_update
      BEFORE UPDATE OF event_id, subject, headers ON jetstream_outbox_events
    BEGIN{_SQLITE_FLAWS}
    END""",
)
_CHECK = {"postgresql": _CHECK_POSTGRESQL, "sqlite": _CHECK_SQLITE}
_UNCHECK = {
    "postgresql": (
        "DROP TRIGGER jetstream_outbox_check ON jetstream_outbox_events",
        "DROP FUNCTION jetstream_outbox_check",
    ),
    "sqlite": (
        "DROP TRIGGER jetstream_outbox_check",
        "DROP TRIGGER jetstream_outbox_check_update",
    ),
}
# Times that programs could not read; what they should have been nobody knows.
_ODD_TIME = {
    "postgresql": "{0} < '1970-01-01 00:00:00+00' OR {0} >= '9999-01-01 00:00:00+00'",
    "sqlite": f"{{0}} IS NOT NULL AND (typeof({{0}}) <> 'text' OR {{0}} NOT GLOB {_SQLITE_TIME})",
}
_NOW = {"postgresql": "now()", "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now')"}


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    _count_failures()
    _count_unfinished()
    _tell_streams_apart()
    _measure_events(dialect)
    _check_outbox(dialect)
    _note_what_relays_publish()


def downgrade() -> None:
    dialect = op.get_bind().dialect.name
    for statement in _UNCHECK[dialect]:
        op.execute(statement)
    op.drop_table("jetstream_relay_notes")
    _forget_sizes(dialect)
    _know_places_by_sequence()
    op.drop_column("jetstream_inbox_events", "unfinished")
    op.drop_column("jetstream_inbox_events", "failures")


def _count_failures() -> None:
    """A try is a run of the handler that failed by itself; the server counts deliveries only."""
    op.add_column(
        "jetstream_inbox_events",
        sa.Column("failures", sa.Integer(), nullable=False, server_default=sa.text("0")),
    )


def _tell_streams_apart() -> None:
    """A stream that is made anew counts from 1 again: a place is the sequence and the moment.

    Rows that are there keep their places without a moment, and are known by their event's id.
    """
    with op.batch_alter_table("jetstream_inbox_events") as table:
        table.add_column(sa.Column("stored_us", sa.BigInteger()))
        table.drop_constraint("uq_jetstream_inbox_events_stream", type_="unique")
        table.create_unique_constraint(
            "uq_jetstream_inbox_events_stream", ["stream", "stream_seq", "stored_us"]
        )


def _know_places_by_sequence() -> None:
    op.execute("""
        UPDATE jetstream_inbox_events SET stream_seq = NULL
         WHERE stream_seq IS NOT NULL
           AND EXISTS (SELECT 1 FROM jetstream_inbox_events newer
                        WHERE newer.stream = jetstream_inbox_events.stream
                          AND newer.stream_seq = jetstream_inbox_events.stream_seq
                          AND newer.id > jetstream_inbox_events.id)""")
    with op.batch_alter_table("jetstream_inbox_events") as table:
        table.drop_constraint("uq_jetstream_inbox_events_stream", type_="unique")
        table.create_unique_constraint("uq_jetstream_inbox_events_stream", ["stream", "stream_seq"])
        table.drop_column("stored_us")


def _measure_events(dialect: str) -> None:
    """A claim is bounded in bytes, and events without a resource wait for nobody.

    Rows that are there keep their resource: those behind one that waits would find no head.
    """
    table = "jetstream_outbox_events"
    size = sa.Column("bytes", sa.Integer(), nullable=False, server_default=sa.text("0"))
    op.add_column(table, size)
    op.execute(f"UPDATE {table} SET bytes = {_SIZE[dialect]} WHERE status <> 'sent'")
    _place(dialect, _PLACE)


def _forget_sizes(dialect: str) -> None:
    _place(dialect, _PLACE_BEFORE)
    op.drop_column("jetstream_outbox_events", "bytes")


def _place(dialect: str, statements: dict[str, str]) -> None:
    if dialect == "sqlite":
        op.execute("DROP TRIGGER jetstream_outbox_place")
    op.execute(statements[dialect])


def _check_outbox(dialect: str) -> None:
    """Triggers and not constraints: those would refuse to mark a row from before as failed."""
    for name in ("enqueued_at", "created_at", "updated_at", "retry_at", "sent_at"):
        odd = _ODD_TIME[dialect].format(name)
        op.execute(f"UPDATE jetstream_outbox_events SET {name} = {_NOW[dialect]} WHERE {odd}")
    for statement in _CHECK[dialect]:
        op.execute(statement)


def _count_unfinished() -> None:
    """An event that ends the process never says so; only a start without an end tells."""
    op.add_column(
        "jetstream_inbox_events",
        sa.Column("unfinished", sa.Integer(), nullable=False, server_default=sa.text("0")),
    )


def _note_what_relays_publish() -> None:
    """A relay that dies leaves rows that are in the stream and look unsent: where to look."""
    op.create_table(
        "jetstream_relay_notes",
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("stale_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stream_created", sa.String(64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("subjects", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("holder", name="pk_jetstream_relay_notes"),
    )
