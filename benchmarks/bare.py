"""The bare limits: asyncpg and nats-py by hand, with nothing but the work itself."""

from __future__ import annotations

import asyncio
import itertools
import json

import asyncpg
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig

from benchmarks.work import body, driver_url, event_id, stored_rate, written_rate

WINDOW = 256


class _Acks:
    """Publishes with a window of unanswered messages; only counts the answers."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prefix = client.new_inbox() + "."
        self._tokens = itertools.count()
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._room = asyncio.Semaphore(WINDOW)

    async def start(self) -> None:
        await self._client.subscribe(self._prefix + "*", cb=self._answered)

    async def _answered(self, msg: Msg) -> None:
        future = self._waiting.pop(msg.subject[len(self._prefix) :])
        if b'"error"' in msg.data:
            future.set_exception(RuntimeError(msg.data.decode()))
        else:
            future.set_result(None)
        self._room.release()

    async def publish(self, messages: list[tuple[str, bytes, str]]) -> None:
        futures = []
        loop = asyncio.get_running_loop()
        for subject, data, message_id in messages:
            await self._room.acquire()
            token = str(next(self._tokens))
            future = self._waiting[token] = loop.create_future()
            futures.append(future)
            await self._client.publish(
                subject, data, reply=self._prefix + token, headers={"Nats-Msg-Id": message_id}
            )
        await asyncio.gather(*futures)


async def relay(database: str, server: str, number: int) -> float:
    client = await nats.connect(server)
    js = client.jetstream()
    await js.add_stream(name="bare", subjects=["bare.>"])
    acks = _Acks(client)
    await acks.start()
    connection = await asyncpg.connect(driver_url(database))
    await connection.execute(
        "CREATE TABLE bare_outbox (id bigserial PRIMARY KEY, event_id text UNIQUE, subject text, "
        "payload bytea, status text DEFAULT 'pending', sent_at timestamptz);"
        "CREATE INDEX ON bare_outbox (id) WHERE status = 'pending'"
    )
    await connection.executemany(
        "INSERT INTO bare_outbox (event_id, subject, payload) VALUES ($1, 'bare.a', $2)",
        [(event_id(n), body(n, resource=n).encode()) for n in range(number)],
    )
    await connection.execute("ANALYZE bare_outbox")
    while rows := await connection.fetch(
        "SELECT id, event_id, subject, payload FROM bare_outbox WHERE status = 'pending' "
        "ORDER BY id LIMIT 1000"
    ):
        await acks.publish([(r["subject"], r["payload"], r["event_id"]) for r in rows])
        await connection.execute(
            "UPDATE bare_outbox SET status = 'sent', sent_at = now() WHERE id = ANY($1)",
            [r["id"] for r in rows],
        )
    rate = await stored_rate(js, "bare", number)
    await client.close()
    await connection.close()
    return rate


_TABLES = (
    "CREATE TABLE bare_inbox (id bigserial PRIMARY KEY, event_id text UNIQUE NOT NULL, "
    "subject text, payload jsonb, status text, processed_at timestamptz);"
    "CREATE TABLE bare_work (id bigserial PRIMARY KEY, ref text, note text, "
    "at timestamptz DEFAULT clock_timestamp())"
)


async def _fill(client: Client, number: int) -> None:
    await client.jetstream().add_stream(name="bare", subjects=["bare.>"])
    acks = _Acks(client)
    await acks.start()
    await acks.publish(
        [("bare.a", body(n, resource=n).encode(), event_id(n)) for n in range(number)]
    )


async def consume_batches(database: str, server: str, number: int) -> float:
    client = await nats.connect(server)
    await _fill(client, number)
    connection = await asyncpg.connect(driver_url(database))
    await connection.execute(_TABLES)
    pulled = await client.jetstream().pull_subscribe(
        "bare.a", "w", config=ConsumerConfig(max_ack_pending=5000)
    )
    done = 0
    while done < number:
        messages = await pulled.fetch(500, timeout=5)
        events = [json.loads(m.data) for m in messages]
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO bare_inbox (event_id, subject, payload, status, processed_at) "
                "SELECT *, 'processed', now() FROM unnest($1::text[], $2::text[], $3::jsonb[]) "
                "ON CONFLICT DO NOTHING",
                [e["event_id"] for e in events],
                [m.subject for m in messages],
                [m.data.decode() for m in messages],
            )
            await connection.executemany(
                "INSERT INTO bare_work (ref, note) VALUES ($1, $2)",
                [(e["event_id"], e["payload"]["note"]) for e in events],
            )
        for message in messages:
            await message.ack()
        done += len(messages)
    rate = await written_rate(connection, "bare_work", number)
    await client.close()
    await connection.close()
    return rate


async def consume_each(database: str, server: str, number: int) -> float:
    client = await nats.connect(server)
    await _fill(client, number)
    pool = await asyncpg.create_pool(driver_url(database), min_size=32, max_size=32)
    await pool.execute(_TABLES)
    pulled = await client.jetstream().pull_subscribe(
        "bare.a", "w", config=ConsumerConfig(max_ack_pending=5000)
    )

    async def handle(message: Msg) -> None:
        event = json.loads(message.data)
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "INSERT INTO bare_inbox (event_id, subject, payload, status, processed_at) "
                "VALUES ($1, $2, $3, 'processed', now()) ON CONFLICT DO NOTHING",
                event["event_id"],
                message.subject,
                message.data.decode(),
            )
            await connection.execute(
                "INSERT INTO bare_work (ref, note) VALUES ($1, $2)",
                event["event_id"],
                event["payload"]["note"],
            )
        await message.ack()

    done = 0
    while done < number:
        messages = await pulled.fetch(500, timeout=5)
        await asyncio.gather(*map(handle, messages))
        done += len(messages)
    async with pool.acquire() as connection:
        rate = await written_rate(connection, "bare_work", number)
    await client.close()
    await pool.close()
    return rate
