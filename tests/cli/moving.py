"""A service that ran the gem: its database, its server, and `adopt-gem` on them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import nats
from nats.aio.client import Client
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from typer.testing import CliRunner, Result

from app.cli import cli
from jetstream_bridge.service.database import create_engine
from tests.bridge.support import envelope
from tests.gem_tables import TABLES, TYPES

T = TypeVar("T")

STREAM = "test-jetstream-bridge-stream"
INCOMING, OUTGOING = "test.billing.sync.orders", "test.orders.sync.billing"
DEAD = "test.orders.sync.dlq"
DURABLE = "test-orders-workers"

AGO = {
    "postgresql": "(now() AT TIME ZONE 'UTC') - make_interval(days => :days)",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now', '-' || :days || ' days')",
}
OUTBOX_ROW = """INSERT INTO jetstream_outbox_events
    (event_id, subject, payload, status, attempts, last_error, enqueued_at, sent_at,
     created_at, updated_at)
    VALUES (:id, :subject, {payload}, :status, :attempts, :error, {ago},
            CASE :status WHEN 'sent' THEN {ago} END, {ago}, {ago})"""
INBOX_ROW = """INSERT INTO jetstream_inbox_events
    (event_id, subject, status, stream, received_at, processed_at, created_at, updated_at)
    VALUES (:id, :subject, :status, 's', {ago}, CASE :status WHEN 'processed' THEN {ago} END,
            {ago}, {ago})"""


class Move:
    """The database and the server of the gem called `orders`, and our commands on them."""

    def __init__(self, database_url: str, nats_url: str) -> None:
        self.database_url = database_url
        self.nats_url = nats_url

    def __call__(self, *arguments: str) -> Result:
        result = CliRunner().invoke(cli, ["adopt-gem", *arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result
        return result

    def json(self, *arguments: str, status: int = 0) -> Any:
        result = self(*arguments, "--json")
        assert result.exit_code == status, result.output
        return json.loads(result.stdout)

    def database(self, work: Callable[[AsyncEngine], Coroutine[Any, Any, T]]) -> T:
        async def with_engine() -> T:
            engine = create_engine(self.database_url)
            try:
                return await work(engine)
            finally:
                await engine.dispose()

        return asyncio.run(with_engine())

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        async def read(engine: AsyncEngine) -> list[tuple[Any, ...]]:
            async with engine.connect() as connection:
                return [tuple(row) for row in (await connection.execute(text(sql))).all()]

        return self.database(read)

    def make_gem_tables(self, *, only: int | None = None) -> None:
        statements = TABLES if only is None else TABLES[only : only + 1]

        async def make(engine: AsyncEngine) -> None:
            async with engine.begin() as connection:
                for statement in statements:
                    await connection.execute(text(statement.format(**TYPES[engine.dialect.name])))

        self.database(make)

    def outbox(self, event_id: str, status: str, *, payload: str | None = None) -> None:
        """A row as the gem writes it: the envelope's JSON in a JSON string."""
        body = json.dumps(envelope(event_id)) if payload is None else payload
        values = {"id": event_id, "subject": OUTGOING, "payload": body, "status": status}
        error = "NATS::Timeout: no" if status == "failed" else None
        self._insert(OUTBOX_ROW, days=1, attempts=2, error=error, **values)

    def inbox(self, event_id: str, status: str, *, days: int = 1) -> None:
        self._insert(INBOX_ROW, days=days, id=event_id, subject=INCOMING, status=status)

    def _insert(self, statement: str, **values: object) -> None:
        async def insert(engine: AsyncEngine) -> None:
            kind = engine.dialect.name
            payload = "CAST(:payload AS jsonb)" if kind == "postgresql" else ":payload"
            sql = statement.format(ago=AGO[kind], payload=payload)
            if kind == "postgresql":
                sql = sql.replace(":status", "CAST(:status AS varchar)")
            async with engine.begin() as connection:
                await connection.execute(text(sql), values)

        self.database(insert)

    def stream(self, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        async def with_client() -> T:
            client = await nats.connect(self.nats_url)
            try:
                return await work(client)
            finally:
                await client.close()

        return asyncio.run(with_client())
