"""The bare limits: asyncpg and nats-py by hand, with nothing but the work itself.

`python -m benchmarks.bare LOOP DATABASE SERVER NUMBER`, a process of its own. The stream is there,
and for consuming it is full; what is measured is seen from outside.
"""

from __future__ import annotations

import asyncio
import json

import asyncpg
import nats
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig

from benchmarks.work import DURABLE, INBOX_TABLE, SUBJECT, WORK_TABLE, Acks, body, event_id, run

BATCH = 500  # messages of a fetch
AT_ONCE = 32  # connections, where each message has a transaction of its own

_OUTBOX = (
    "CREATE TABLE bare_outbox (id bigserial PRIMARY KEY, event_id text UNIQUE, subject text, "
    "payload bytea, status text DEFAULT 'pending', sent_at timestamptz);"
    "CREATE INDEX ON bare_outbox (id) WHERE status = 'pending'"
)


async def _fill(connection: asyncpg.Connection, number: int) -> None:
    await connection.execute(_OUTBOX)
    await connection.executemany(
        "INSERT INTO bare_outbox (event_id, subject, payload) VALUES ($1, $2, $3)",
        [(event_id(n), SUBJECT, body(n, resource=n).encode()) for n in range(number)],
    )
    await connection.execute("ANALYZE bare_outbox")


async def relay(database: str, server: str, number: int) -> None:
    connection = await asyncpg.connect(database)
    await _fill(connection, number)
    client = await nats.connect(server)
    acks = Acks(client)
    await acks.start()
    while rows := await connection.fetch(
        "SELECT id, event_id, subject, payload FROM bare_outbox WHERE status = 'pending' "
        "ORDER BY id LIMIT 1000"
    ):
        await acks.publish((r["subject"], r["payload"], r["event_id"]) for r in rows)
        await connection.execute(
            "UPDATE bare_outbox SET status = 'sent', sent_at = now() WHERE id = ANY($1)",
            [r["id"] for r in rows],
        )
    await client.close()
    await connection.close()


async def _subscribed(js: JetStreamContext) -> JetStreamContext.PullSubscription:
    return await js.pull_subscribe(SUBJECT, DURABLE, config=ConsumerConfig(max_ack_pending=5000))


async def consume_batches(database: str, server: str, number: int) -> None:
    """One transaction and one insert of many rows for 500 messages."""
    connection = await asyncpg.connect(database)
    await connection.execute(f"{INBOX_TABLE};{WORK_TABLE}")
    client = await nats.connect(server)
    pulled = await _subscribed(client.jetstream())
    done = 0
    while done < number:
        messages = await pulled.fetch(BATCH, timeout=5)
        async with connection.transaction():
            await _write(connection, messages)
        for message in messages:
            await message.ack()
        done += len(messages)
    await client.close()
    await connection.close()


async def _write(connection: asyncpg.Connection, messages: list[Msg]) -> None:
    events = [json.loads(m.data) for m in messages]
    await connection.execute(
        "INSERT INTO bench_inbox (event_id, subject, payload, status, processed_at) "
        "SELECT *, 'processed', now() FROM unnest($1::text[], $2::text[], $3::jsonb[]) "
        "ON CONFLICT DO NOTHING",
        [e["event_id"] for e in events],
        [m.subject for m in messages],
        [m.data.decode() for m in messages],
    )
    await connection.executemany(
        "INSERT INTO bench_work (ref, note) VALUES ($1, $2)",
        [(e["event_id"], e["payload"]["note"]) for e in events],
    )


async def consume_each(database: str, server: str, number: int) -> None:
    """A transaction for each message, 32 of them at once."""
    pool = await asyncpg.create_pool(database, min_size=AT_ONCE, max_size=AT_ONCE)
    await pool.execute(f"{INBOX_TABLE};{WORK_TABLE}")
    client = await nats.connect(server)
    pulled = await _subscribed(client.jetstream())

    async def handle(message: Msg) -> None:
        async with pool.acquire() as connection, connection.transaction():
            await _write_one(connection, message)
        await message.ack()

    done = 0
    while done < number:
        messages = await pulled.fetch(BATCH, timeout=5)
        await asyncio.gather(*map(handle, messages))
        done += len(messages)
    await client.close()
    await pool.close()


async def _write_one(connection: asyncpg.Connection, message: Msg) -> None:
    event = json.loads(message.data)
    await connection.execute(
        "INSERT INTO bench_inbox (event_id, subject, payload, status, processed_at) "
        "VALUES ($1, $2, $3, 'processed', now()) ON CONFLICT DO NOTHING",
        event["event_id"],
        message.subject,
        message.data.decode(),
    )
    await connection.execute(
        "INSERT INTO bench_work (ref, note) VALUES ($1, $2)",
        event["event_id"],
        event["payload"]["note"],
    )


if __name__ == "__main__":
    run({"relay": relay, "consume_batches": consume_batches, "consume_each": consume_each})
