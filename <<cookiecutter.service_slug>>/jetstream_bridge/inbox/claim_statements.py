"""The statement that claims a batch of events, for PostgreSQL and for SQLite."""

from __future__ import annotations

from sqlalchemy import text

# How long a claim waits for a row that another transaction has written and not committed: that of
# a worker that was frozen or cut off, for instance. Handlers have the session's own limit again.
LOCK_LIMIT = 1.0  # seconds


# One statement for a whole batch. Rows are written as `processed` at once: they become visible
# only with the handlers' work. What is not told as written was here before, by its key or by its
# place in the stream. On PostgreSQL the answer is one row, whose arrays are there only when some
# of the batch was not written: a row for each event would be read for nothing.
CLAIM = {
    "postgresql": text("""
        WITH patience AS MATERIALIZED (
             SELECT current_setting('lock_timeout') AS before,
                    set_config('lock_timeout', :patience, true)),
        claimed AS (
        INSERT INTO jetstream_inbox_events
               (consumer, event_id, subject, payload, headers, stream, stream_seq, stored_us,
                deliveries, status, processed_at)
        SELECT :consumer, r.event_id, r.subject, CAST(r.payload AS json), CAST(r.headers AS json),
               :stream, r.seq, r.stored_us, r.deliveries, 'processed', now()
          FROM patience,
               unnest(CAST(:keys AS text[]), CAST(:subjects AS text[]), CAST(:bodies AS text[]),
                      CAST(:headers AS text[]), CAST(:seqs AS bigint[]),
                      CAST(:moments AS bigint[]), CAST(:deliveries AS integer[]))
               WITH ORDINALITY AS r(event_id, subject, payload, headers, seq, stored_us,
                                    deliveries, position)
         ORDER BY r.position
            ON CONFLICT DO NOTHING
        RETURNING stream_seq, stored_us)
        SELECT number = cardinality(CAST(:seqs AS bigint[])) AS all_of_them,
               CASE WHEN number < cardinality(CAST(:seqs AS bigint[])) THEN places END AS places,
               txid_current_if_assigned() AS transaction,
               set_config('lock_timeout', (SELECT before FROM patience), true)
          FROM (SELECT count(*) AS number, array_agg(ARRAY[stream_seq, stored_us]) AS places
                  FROM claimed) AS written"""),
    "sqlite": text("""
        INSERT INTO jetstream_inbox_events
               (consumer, event_id, subject, payload, headers, stream, stream_seq, stored_us,
                deliveries, status, processed_at)
        SELECT :consumer, value ->> 0, value ->> 1, value ->> 2, value ->> 3, :stream,
               value ->> 4, value ->> 5, value ->> 6, 'processed',
               strftime('%Y-%m-%d %H:%M:%f000', 'now')
          FROM json_each(:rows) WHERE true ORDER BY key
            ON CONFLICT DO NOTHING
        RETURNING stream_seq, stored_us"""),
}


TRANSACTION = {
    "postgresql": text("txid_current()"),
    "sqlite": text("NULL"),
}
