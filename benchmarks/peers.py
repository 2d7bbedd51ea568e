"""The peers on the same work, each set up in its favour: large batches, many workers, no log lines.

`python -m benchmarks.peers LOOP DATABASE SERVER NUMBER`, by the Python of `.venv-bench`.
"""

from __future__ import annotations

import json
import warnings
from datetime import timedelta
from typing import Any

import asyncpg
import nats
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from benchmarks.work import DURABLE, INBOX_TABLE, STREAM, SUBJECT, WORK_TABLE, body, run

RESOURCES = 500  # ordering keys of txoutbox
_QUIET = 40  # the level of FastStream's log: errors only


def _engine(database: str) -> AsyncEngine:
    url = database.replace("postgresql://", "postgresql+asyncpg://")
    return create_async_engine(url, pool_size=40)


async def txoutbox(database: str, server: str, number: int) -> None:
    from txoutbox import Relay, RelayConfig
    from txoutbox.adapters.postgres import PostgresStorage

    warnings.simplefilter("ignore")
    pool = await asyncpg.create_pool(database, min_size=2, max_size=8)
    storage = PostgresStorage(pool)
    await storage.create_schema()
    await pool.executemany(
        "INSERT INTO outbox (topic, key, payload) VALUES ($1, $2, $3)",
        [(SUBJECT, str(n % RESOURCES), body(n, resource=n).encode()) for n in range(number)],
    )
    await pool.execute("ANALYZE outbox")
    js = (await nats.connect(server)).jetstream()

    async def publish(message: Any) -> None:
        headers = {"Nats-Msg-Id": f"tx-{message.id}"}
        await js.publish(message.topic, message.payload, headers=headers)

    config = RelayConfig(batch_size=1000, concurrency=100, lease=timedelta(seconds=120))
    await Relay(storage, publish, config=config).run()


async def faststream_outbox(database: str, server: str, number: int) -> None:
    from faststream.nats import NatsBroker
    from faststream_outbox import OutboxBroker, make_outbox_table

    engine, metadata = _engine(database), sa.MetaData()
    table = make_outbox_table(metadata, table_name="fs_outbox")
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    outbox = OutboxBroker(engine, outbox_table=table, log_level=_QUIET)
    broker = NatsBroker(server, log_level=_QUIET)

    async def relay(event: dict[str, Any]) -> dict[str, Any]:
        return event

    workers = outbox.subscriber("q", max_workers=20, fetch_batch_size=200, min_fetch_interval=0.01)
    broker.publisher(SUBJECT, stream=STREAM)(workers(relay))
    async with async_sessionmaker(engine)() as session, session.begin():
        for n in range(number):
            await outbox.publish(json.loads(body(n, resource=n)), queue="q", session=session)
    await broker.connect()
    await outbox.start()
    await _until_killed()


async def faststream(database: str, server: str, number: int) -> None:
    """A session for each message, as its users write it by hand."""
    from faststream.nats import JStream, NatsBroker, PullSub
    from nats.js.api import ConsumerConfig

    engine = _engine(database)
    async with engine.begin() as connection:
        for statement in (INBOX_TABLE, WORK_TABLE):
            await connection.exec_driver_sql(statement)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    inbox, work = _tables()

    async def handle(event: dict[str, Any]) -> None:
        row = {"event_id": event["event_id"], "subject": SUBJECT, "payload": event}
        noted = insert(inbox).values(**row, status="processed", processed_at=sa.func.now())
        async with sessions() as session, session.begin():
            returned = noted.on_conflict_do_nothing().returning(inbox.c.event_id)
            if (await session.execute(returned)).first() is not None:
                done = {"ref": event["event_id"], "note": event["payload"]["note"]}
                await session.execute(sa.insert(work).values(**done))

    broker = NatsBroker(server, log_level=_QUIET)
    broker.subscriber(
        SUBJECT,
        stream=JStream(STREAM, subjects=[f"{STREAM}.>"], declare=False),
        durable=DURABLE,
        pull_sub=PullSub(batch_size=200),
        config=ConsumerConfig(max_ack_pending=5000),
    )(handle)
    await broker.start()
    await _until_killed()


def _tables() -> tuple[sa.Table, sa.Table]:
    metadata = sa.MetaData()
    inbox = sa.Table(
        "bench_inbox",
        metadata,
        sa.Column("event_id", sa.Text),
        sa.Column("subject", sa.Text),
        sa.Column("payload", JSONB),
        sa.Column("status", sa.Text),
        sa.Column("processed_at", sa.DateTime(timezone=True)),
    )
    work = sa.Table("bench_work", metadata, sa.Column("ref", sa.Text), sa.Column("note", sa.Text))
    return inbox, work


async def _until_killed() -> None:
    """The parent ends this process when it has seen what it waited for."""
    import asyncio

    await asyncio.Event().wait()


if __name__ == "__main__":
    run(
        {
            "txoutbox": txoutbox,
            "faststream_outbox": faststream_outbox,
            "faststream": faststream,
        }
    )
