"""What the outbox's table refuses, whoever writes: rows that the wire could not carry.

Triggers, and not CHECK constraints: a database tests a constraint, one that is NOT VALID too, at
each update of a row, so a row from before it could not even be marked as failed. These look at
what is inserted and at what a later statement changes. The errors are those of a constraint.

The relay refuses the same rows by the rules in `wire`; a little more gets past the database, such
as bytes that are no UTF-8 in SQLite.
"""

from __future__ import annotations

# Blanks of any kind, and control characters: `*`, `>` and the dot are NATS' own.
_PG_TOKEN = r"[^.*>\u0001-\u0020\u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"

# Headers as they mostly are, told at a glance: parsing them took as long as all else. Names that
# begin with an N are looked at whole.
_PG_VALUE = r"([!#-\[\]-~]([ !#-\[\]-~]*[!#-\[\]-~])?)?"
_PG_PLAIN = rf'^\{{("[a-mo-zA-MO-Z_][-_0-9A-Za-z]*":"{_PG_VALUE}"[,\}}])+$'

_POSTGRESQL = (
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
_SUBJECT = "subject is not 1 to 1024 bytes of tokens with dots, without blanks or wildcards"
_HEADER = (
    "a header has a name or a value that is not printable ASCII, a value that is no text or has "
    "outer blanks, or a name that begins with Nats-"
)
_SQLITE_FLAWS = f"""
      SELECT RAISE(ABORT, 'event_id is not plain ASCII without outer blanks')
       WHERE typeof(NEW.event_id) <> 'text' OR NEW.event_id = '' OR length(NEW.event_id) > 255
          OR instr(NEW.event_id, char(0)) OR NEW.event_id GLOB '*[^ -~]*'
          OR trim(NEW.event_id) <> NEW.event_id;
      SELECT RAISE(ABORT, '{_SUBJECT}')
       WHERE typeof(NEW.subject) <> 'text' OR length(CAST(NEW.subject AS BLOB)) > 1024
          OR instr('.' || NEW.subject || '.', '..') OR instr(NEW.subject, char(0))
          OR NEW.subject GLOB '*[*>]*' OR NEW.subject GLOB {_SQLITE_BLANKS};
      SELECT RAISE(ABORT, 'headers are no JSON object')
       WHERE typeof(NEW.headers) <> 'text'
          OR CASE WHEN json_valid(NEW.headers) THEN json_type(NEW.headers) END IS NOT 'object';
      SELECT RAISE(ABORT, '{_HEADER}')
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

_SQLITE = (
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

CHECKS = {"postgresql": _POSTGRESQL, "sqlite": _SQLITE}
