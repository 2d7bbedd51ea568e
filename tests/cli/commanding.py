"""The operator's commands of the service called `orders`, on a mock server, without a process."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

from nats.js.api import ConsumerConfig, RetentionPolicy, StreamConfig
from typer.testing import CliRunner, Result

from app.cli import cli
from jetstream_bridge.testing import MockServer
from tests.bridge.support import envelope

STREAM = "test-jetstream-bridge-stream"
DURABLE = "test-orders-workers"
INCOMING = "test.billing.sync.orders"
OUTGOING = "test.orders.sync.billing"
DEAD = "test.orders.sync.dlq"


class Commands:
    """Runs commands; puts events into the outbox and dead letters into the stream."""

    def __init__(self, server: MockServer, database: Path) -> None:
        self.server = server
        self._database = database

    def __call__(self, *arguments: str, input: str | None = None) -> Result:
        """Run a command; whatever it does, it has no traceback."""
        result = CliRunner().invoke(cli, arguments, input=input)
        assert result.exception is None or isinstance(result.exception, SystemExit), result
        assert "Traceback" not in result.output
        return result

    def text(self, *arguments: str, status: int = 0) -> str:
        """Return what a person sees of a command that exits with `status`: 100 columns wide."""
        result = self(*arguments)
        assert result.exit_code == status, result.output
        assert all(len(line) <= 100 for line in result.stdout.splitlines()), result.stdout
        return result.stdout

    def json(self, *arguments: str, status: int = 0) -> Any:
        """Return the one document of a command that exits with `status`."""
        result = self(*arguments, "--json")
        assert result.exit_code == status, result.output
        return json.loads(result.stdout)

    def add(self, event_id: str, *, status: str, error: str | None = None, days: int = 0) -> None:
        """Write an outbox row as another program would; `days` ago it was sent."""
        with sqlite3.connect(self._database) as connection:
            connection.execute(
                "INSERT INTO jetstream_outbox_events"
                " (event_id, subject, payload, status, sent_at, last_error) VALUES (?, ?, ?, ?,"
                " CASE ? WHEN 'sent' THEN strftime('%Y-%m-%d %H:%M:%f000', 'now', ?) END, ?)",
                (event_id, OUTGOING, envelope(event_id), status, status, f"-{days} days", error),
            )
        connection.close()

    def rows(self, sql: str, *parameters: object) -> list[Any]:
        """Write or read rows with SQL."""
        with sqlite3.connect(self._database) as connection:
            found = connection.execute(sql, parameters).fetchall()
        connection.close()
        return found

    def put(self, subject: str, body: str, **headers: str) -> int:
        """Store a message as another program would; return its sequence."""

        async def put() -> int:
            return self.server.put(subject, body.encode(), headers)

        return asyncio.run(put())

    def make_stream(self) -> None:
        """Make stream and consumer; `topology ensure` takes its time to agree with others."""

        async def make() -> None:
            client = await self.server.connect()
            stream = client.jetstream()
            subjects = [INCOMING, OUTGOING, DEAD, "test.audit.sync.orders"]
            config = StreamConfig(STREAM, subjects=subjects, retention=RetentionPolicy.WORK_QUEUE)
            await stream.add_stream(config)
            consumer = ConsumerConfig(durable_name=DURABLE, filter_subject=INCOMING)
            await stream.add_consumer(STREAM, consumer)
            await client.close()

        asyncio.run(make())

    def letter(
        self,
        number: int,
        *,
        reason: str = "unrecoverable",
        error: str = "no such",
        subject: str = INCOMING,
    ) -> int:
        """Put a dead letter of event `e{number}` into the stream; return its sequence."""
        context = {
            "event_id": f"e{number}",
            "original_subject": subject,
            "error_class": "Unrecoverable",
            "error_message": error,
            "consumer": DURABLE,
        }
        headers = {
            "Nats-Msg-Id": f"dlq:{STREAM}:{number}",
            "x-dead-letter": "true",
            "x-dlq-reason": reason,
            "x-deliveries": "5",
            "x-dlq-context": json.dumps(context),
        }
        return self.put(DEAD, envelope(f"e{number}", resource=str(number)), **headers)

    def letters(self) -> list[int]:
        """The sequences of the letters that are in the stream now."""
        return [item["sequence"] for item in self.json("dlq", "list")["items"]]
