"""The tables of the gem 4.2, which a service may find in its database."""

from __future__ import annotations

# As its generator's migrations make them, on Rails' column types.
TABLES = (
    """CREATE TABLE jetstream_outbox_events (
         id {key}, event_id varchar NOT NULL, subject varchar NOT NULL,
         payload {json} NOT NULL DEFAULT '{{}}', headers {json} NOT NULL DEFAULT '{{}}',
         status varchar NOT NULL DEFAULT 'pending', attempts integer NOT NULL DEFAULT 0,
         last_error text, enqueued_at timestamp(6), sent_at timestamp(6),
         created_at timestamp(6) NOT NULL, updated_at timestamp(6) NOT NULL)""",
    "CREATE UNIQUE INDEX index_jetstream_outbox_events_on_event_id"
    " ON jetstream_outbox_events (event_id)",
    """CREATE TABLE jetstream_inbox_events (
         id {key}, event_id varchar, subject varchar NOT NULL,
         payload {json} NOT NULL DEFAULT '{{}}', headers {json} NOT NULL DEFAULT '{{}}',
         stream varchar, stream_seq bigint, deliveries integer,
         status varchar NOT NULL DEFAULT 'received', last_error text,
         received_at timestamp(6), processed_at timestamp(6),
         created_at timestamp(6) NOT NULL, updated_at timestamp(6) NOT NULL)""",
    "CREATE UNIQUE INDEX index_jetstream_inbox_events_on_event_id"
    " ON jetstream_inbox_events (event_id) WHERE event_id IS NOT NULL",
)
TYPES = {
    "postgresql": {"key": "bigserial PRIMARY KEY", "json": "jsonb"},
    "sqlite": {"key": "integer PRIMARY KEY AUTOINCREMENT", "json": "json"},
}
