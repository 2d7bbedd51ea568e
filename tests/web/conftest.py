"""The operator's API of the service called `orders`, on the mock, with a token."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY
from pydantic import BaseModel
from sqlalchemy import text

from jetstream_bridge import Bridge, Consumers, Event, Unrecoverable
from jetstream_bridge.service.database import Database
from jetstream_bridge.testing import Deliver
from jetstream_bridge.testing.plugin import ADMIN_TOKEN
from tests.bridge.support import envelope
from tests.waiting import eventually
from tests.web.console import Person

TOKEN = ADMIN_TOKEN
STREAM = "test-jetstream-bridge-stream"
DURABLE = "test-orders-workers"
INCOMING = "test.billing.sync.orders"
OUTGOING = "test.orders.sync.billing"
DEAD = "test.orders.sync.dlq"


@pytest.fixture
def app(running_app: FastAPI) -> FastAPI:
    return running_app


class Order(BaseModel):
    id: int


class Handler:
    """What the handler saw, and how it is to behave."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.error: Exception | None = None


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
def consumers(handler: Handler) -> Consumers:
    consumers = Consumers()

    @consumers.on("order.placed")
    async def handle(event: Event[Order]) -> None:
        if handler.error is not None:
            raise handler.error
        handler.seen.append(event.payload.id)

    return consumers


@pytest.fixture
async def person(client: httpx.AsyncClient, app: FastAPI) -> Person:
    """Somebody who is logged in to the console of a service whose stream is there."""
    bridge: Bridge = app.state.bridge
    checks = bridge.checks
    await eventually(lambda: all(check.ok for check in checks().values()), what="readiness")
    person = Person(client)
    await person.log_in()
    return person


class Outbox:
    """Writes outbox rows as another program would, in whatever state."""

    def __init__(self, database: Database) -> None:
        self._engine = database.engine

    async def add(self, event_id: str, *, status: str = "pending", resource: str = "1") -> None:
        async with self._engine.begin() as connection:
            await connection.execute(
                text(
                    "INSERT INTO jetstream_outbox_events"
                    " (event_id, subject, payload, status, sent_at, last_error)"
                    " VALUES (:event_id, :subject, :payload, :status, CASE :status WHEN 'sent'"
                    " THEN strftime('%Y-%m-%d %H:%M:%f000', 'now') END, :error)"
                ),
                {
                    "event_id": event_id,
                    "subject": OUTGOING,
                    "payload": envelope(event_id, resource=resource),
                    "status": status,
                    "error": "too large" if status == "failed" else None,
                },
            )


@pytest.fixture
def outbox(database: Database) -> Outbox:
    return Outbox(database)


class Dead:
    """Makes dead letters the whole way: delivered, refused, put aside."""

    def __init__(self, deliver: Deliver, handler: Handler) -> None:
        self._deliver = deliver
        self._handler = handler

    async def add(self, number: int, *, error: str = "no such product") -> None:
        self._handler.error = Unrecoverable(error)
        result = await self._deliver("order.placed", {"id": number})
        assert result.reason == "unrecoverable"
        self._handler.error = None


@pytest.fixture
def dead(deliver: Deliver, handler: Handler) -> Dead:
    return Dead(deliver, handler)


def sample(name: str, **labels: str) -> float:
    """Read a metric of this process: `sample("bridge_published_total", result="published")`."""
    value = REGISTRY.get_sample_value(name, labels)
    return value if value is not None else 0.0
