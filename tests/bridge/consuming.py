"""A service under test that consumes: its database, its NATS, and what it was handed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import nats
from nats.aio.client import Client
from nats.js.api import ConsumerInfo, RawStreamMsg
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import Bridge, Consumers, Event
from tests.bridge.support import Sessions, config, database, envelope, rows
from tests.brokers import Broker
from tests.waiting import eventually

SUBJECT = "test.orders.sync.billing"
STREAM = "test-jetstream-bridge-stream"
DURABLE = "test-billing-workers"


class Change(BaseModel):
    n: int


@dataclass
class Service:
    """One service under test: its database, its NATS, and what it runs."""

    engine: AsyncEngine
    sessions: Sessions
    broker: Broker
    client: Client

    async def send(
        self,
        body: bytes | str,
        *,
        subject: str = SUBJECT,
        headers: Mapping[str, str] | None = None,
        timeout: float = 5.0,
    ) -> None:
        """Publish, and return when it is stored. Whoever tries again may say a short `timeout`."""
        data = body.encode() if isinstance(body, str) else body
        stream = self.client.jetstream(timeout=timeout)
        await stream.publish(subject, data, headers=dict(headers or {}))

    async def send_many(self, number: int, *, resources: int, start: int = 0) -> None:
        for n in range(start, start + number):
            await self.send(envelope(f"e{n}", resource=str(n % resources), n=n))

    def bridge(self, consumers: Consumers, **changes: Any) -> Bridge:
        return Bridge(
            config(self.broker.url, app="billing", peer="orders", **changes),
            self.sessions,
            consumers=consumers,
            make_client=self.broker.make_client,
        )

    def relaying(self, **changes: Any) -> Bridge:
        """A bridge that sends and reads nothing."""
        return Bridge(
            config(self.broker.url, app="billing", peer="orders", **changes),
            self.sessions,
            relay=True,
            make_client=self.broker.make_client,
        )

    @asynccontextmanager
    async def working(self, consumers: Consumers, **changes: Any) -> AsyncIterator[Bridge]:
        bridge = self.bridge(consumers, **changes)
        async with bridge:
            await eventually(lambda: bridge.checks()["consumers"].ok, what="the worker is ready")
            yield bridge

    async def effects(self) -> list[int]:
        found = await rows(self.engine, "SELECT n FROM effect ORDER BY id")
        return [row[0] for row in found]

    async def inbox(self) -> dict[str, tuple[str, str | None]]:
        found = await rows(
            self.engine, "SELECT event_id, status, last_error FROM jetstream_inbox_events"
        )
        return {row[0]: (row[1], row[2]) for row in found}

    async def info(self) -> ConsumerInfo:
        info: ConsumerInfo = await self.client.jetstream().consumer_info(STREAM, DURABLE)
        return info

    async def is_empty(self) -> bool:
        """Nothing is left in the stream but dead letters."""
        state = (await self.client.jetstream().stream_info(STREAM, subjects_filter=">")).state
        return not {s for s in (state.subjects or {}) if not s.endswith(".dlq")}

    async def dead_letters(self) -> list[RawStreamMsg]:
        js = self.client.jetstream()
        last = (await js.stream_info(STREAM)).state.last_seq
        found = []
        for seq in range(1, last + 1):
            try:
                message = await js.get_msg(STREAM, seq=seq)
            except nats.js.errors.NotFoundError:
                continue
            if message.subject == "test.billing.sync.dlq":
                found.append(message)
        return found


@asynccontextmanager
async def service_on(url: str, broker: Broker) -> AsyncIterator[Service]:
    async with database(url) as (engine, sessions):
        key = "bigserial" if engine.dialect.name == "postgresql" else "integer"
        async with engine.begin() as connection:
            await connection.execute(
                text(f"CREATE TABLE effect (id {key} PRIMARY KEY, n int UNIQUE)")
            )
        client = await broker.connect()
        await client.jetstream().add_stream(
            name=STREAM,
            subjects=[SUBJECT, "test.billing.sync.orders", "test.billing.sync.dlq"],
            retention="workqueue",
        )
        yield Service(engine, sessions, broker, client)


async def insert(session: AsyncSession, n: int) -> None:
    await (await session.connection()).execute(text("INSERT INTO effect (n) VALUES (:n)"), {"n": n})


def recording() -> Consumers:
    """A handler that writes each event's number."""
    consumers = Consumers()

    @consumers.on("order.changed")
    async def record(event: Event[Change], session: AsyncSession) -> None:
        await insert(session, event.payload.n)

    return consumers


def letter(message: RawStreamMsg) -> dict[str, Any]:
    context: dict[str, Any] = json.loads((message.headers or {})["x-dlq-context"])
    return context
