"""A transaction somewhere that keeps an old snapshot, and the pages that a statement touches."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge.outbox.claims import Lanes
from jetstream_bridge.outbox.settlement import Settlement
from tests.outbox.test_lanes import MUCH


@asynccontextmanager
async def old_snapshot(engine: AsyncEngine) -> AsyncIterator[None]:
    """Keep a snapshot of now, as a dump or a report does; it writes nothing."""
    reader = engine.execution_options(isolation_level="REPEATABLE READ")
    async with reader.connect() as connection:
        await connection.execute(text("SELECT count(*) FROM jetstream_outbox_lanes"))
        yield


async def generate(engine: AsyncEngine, number: int, *, prefix: str, resources: int = 0) -> None:
    """Insert `number` events in one statement; each has its own resource by default."""
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO jetstream_outbox_events (event_id, subject, payload) "
                "SELECT :prefix || n, 'a.b', json_build_object('resource_type', 'o', "
                "'resource_id', CAST(n % :resources AS text)) FROM generate_series(1, :number) n"
            ),
            {"prefix": prefix, "number": number, "resources": resources or number + 1},
        )


async def send_all(lanes: Lanes, *, batch: int = 4000) -> int:
    """Claim and mark as sent until nothing is ready; return how many rows that were."""
    sent = 0
    while True:
        async with lanes.claim(batch, MUCH) as claim:
            found = [row.id for row in claim.rows]
            await claim.settle(Settlement(sent=found))
        sent += len(found)
        if not found:
            return sent


async def look(lanes: Lanes, *, times: int = 1) -> None:
    """Look for work, as an idle relay does."""
    for _ in range(times):
        async with lanes.claim(1000, MUCH):
            pass


async def blocks_of(engine: AsyncEngine, asked: Callable[[], Awaitable[object]]) -> int:
    """Return how many blocks the statements of `asked` touch, when they are run once more."""
    plans = await plans_of(engine, asked)
    return sum(blocks(plan) for plan in plans)


async def plans_of(engine: AsyncEngine, asked: Callable[[], Awaitable[object]]) -> list[str]:
    """Run `asked` and explain each of its statements, with the settings that it made."""
    seen: list[tuple[str, Any]] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def note(conn: object, cursor: object, statement: str, values: object, *_: object) -> None:
        seen.append((statement, values))

    await asked()
    event.remove(engine.sync_engine, "before_cursor_execute", note)
    plans = []
    async with engine.connect() as connection:
        for statement, values in seen:
            explain = f"EXPLAIN (ANALYZE, BUFFERS, COSTS off) {statement}"
            found = await connection.exec_driver_sql(explain, values)
            plans.append("\n".join(row[0] for row in found))
        await connection.rollback()
    assert plans, "nothing was asked"
    return plans


def blocks(plan: str) -> int:
    """The blocks of a plan's first node, which are those of all of it."""
    executed = plan.partition("Planning:")[0]
    touched = re.search(r"Buffers: shared(?: hit=(\d+))?(?: read=(\d+))?", executed)
    return sum(int(found or 0) for found in touched.groups()) if touched else 0
