"""The work that every measurement does: the same events, measured in the same way."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import datetime

import asyncpg
from nats.js import JetStreamContext


def body(number: int, *, resource: int) -> str:
    """Return an envelope of the size that services really send."""
    return json.dumps(
        {
            "event_id": str(uuid.UUID(int=number + 1)),
            "schema_version": 1,
            "event_type": "order.created",
            "producer": "orders",
            "resource_id": str(resource),
            "occurred_at": "2026-01-01T00:00:00Z",
            "trace_id": "abc",
            "resource_type": "order",
            "payload": {"id": number, "note": "x" * 200},
        },
        separators=(",", ":"),
    )


def event_id(number: int) -> str:
    return str(uuid.UUID(int=number + 1))


async def stored_rate(js: JetStreamContext, stream: str, number: int) -> float:
    """Wait until `number` messages are stored; return the rate by the stream's own clock."""
    while (await js.stream_info(stream)).state.messages < number:
        await asyncio.sleep(0.1)
    first, last = await js.get_msg(stream, seq=1), await js.get_msg(stream, seq=number)
    return (number - 1) / (_moment(last.time) - _moment(first.time)).total_seconds()


def _moment(value: object) -> datetime:
    if isinstance(value, datetime):
        return value
    return datetime.fromisoformat(str(value)[:26].rstrip("Z") + "+00:00")


async def written_rate(connection: asyncpg.Connection, table: str, number: int) -> float:
    """Wait until `table` has `number` rows; return the rate by their column `at`."""
    while await connection.fetchval(f"SELECT count(*) FROM {table}") < number:
        await asyncio.sleep(0.2)
    elapsed = await connection.fetchval(
        f"SELECT extract(epoch FROM max(at) - min(at))::float8 FROM {table}"
    )
    return (number - 1) / float(elapsed)


def driver_url(url: str) -> str:
    """Return an SQLAlchemy address as asyncpg reads it."""
    return url.replace("postgresql+asyncpg://", "postgresql://")
