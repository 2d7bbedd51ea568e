"""The bridge on the same work: whole, with every guarantee, as a service runs it."""

from __future__ import annotations

import logging
from datetime import datetime

import asyncpg
import nats
from pydantic import BaseModel
from sqlalchemy import insert, text
from sqlmodel import Field, SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from benchmarks.bare import _Acks
from benchmarks.work import body, driver_url, event_id, stored_rate, written_rate
from jetstream_bridge import Bridge, BridgeConfig, ConnectionOptions, Consumers, Event
from jetstream_bridge.outbox.tables import OutboxEvent
from tests.bridge.support import database as bridge_database

STREAM = "bench-jetstream-bridge-stream"
SUBJECT = "bench.orders.sync.billing"

logging.getLogger("app").setLevel(logging.WARNING)


def _config(app: str, peer: str, server: str) -> BridgeConfig:
    return BridgeConfig(
        app_name=app,
        destination_app=peer,
        env="bench",
        connection=ConnectionOptions(urls=(server,)),
    )


async def relay(database: str, server: str, number: int) -> float:
    return await _drain(database, server, number, resources=5000)


async def relay_hot(database: str, server: str, number: int) -> float:
    return await _drain(database, server, number, resources=50)


async def _drain(database: str, server: str, number: int, *, resources: int) -> float:
    async with bridge_database(database) as (engine, sessions):
        rows = [
            {
                "event_id": event_id(n),
                "subject": SUBJECT,
                "payload": body(n, resource=n % resources),
                "headers": {},
            }
            for n in range(number)
        ]
        async with engine.begin() as connection:
            await connection.execute(insert(OutboxEvent), rows)
        async with engine.begin() as connection:
            await connection.execute(text("ANALYZE jetstream_outbox_events"))
        async with Bridge(_config("orders", "billing", server), sessions, relay=True):
            client = await nats.connect(server)
            js = client.jetstream()
            while not [s for s in await js.streams_info() if s.config.name == STREAM]:
                pass
            rate = await stored_rate(js, STREAM, number)
            await client.close()
        return rate


class Work(SQLModel, table=True):
    """The business row."""

    __tablename__ = "bench_work"

    id: int | None = Field(default=None, primary_key=True)
    ref: str
    note: str
    at: datetime = Field(
        default=None, sa_column_kwargs={"server_default": text("clock_timestamp()")}
    )


class Order(BaseModel):
    id: int
    note: str


async def consume(database: str, server: str, number: int) -> float:
    consumers = Consumers()

    @consumers.on("order.created")
    async def work(event: Event[Order], session: AsyncSession) -> None:
        session.add(Work(ref=event.event_id, note=event.payload.note))

    client = await nats.connect(server)
    await client.jetstream().add_stream(name=STREAM, subjects=[SUBJECT], retention="workqueue")
    acks = _Acks(client)
    await acks.start()
    await acks.publish(
        [(SUBJECT, body(n, resource=n % 5000).encode(), event_id(n)) for n in range(number)]
    )
    async with bridge_database(database) as (engine, sessions):
        async with engine.begin() as connection:
            await connection.run_sync(
                SQLModel.metadata.create_all, tables=[SQLModel.metadata.tables["bench_work"]]
            )
        watching = await asyncpg.connect(driver_url(database))
        async with Bridge(_config("billing", "orders", server), sessions, consumers=consumers):
            rate = await written_rate(watching, "bench_work", number)
        await watching.close()
    await client.close()
    return rate
