"""A handler that always raises, and notes when it was asked."""

from __future__ import annotations

import time
from pathlib import Path

from sqlmodel import text
from sqlmodel.ext.asyncio.session import AsyncSession

from app.consumers.registry import consumers
from jetstream_bridge import Event

NOTES = Path("poison.log")


@consumers.on("poison.made")
async def refuse(event: Event[dict[str, str]], session: AsyncSession) -> None:
    _note(event.event_id, event.metadata.deliveries)
    connection = await session.connection()
    await connection.execute(
        text("INSERT INTO marks (event_id, number) VALUES (:event_id, 0)"),
        {"event_id": event.event_id},
    )
    raise ValueError("it cannot be digested")


def _note(event_id: str, deliveries: int) -> None:
    with NOTES.open("a") as notes:
        notes.write(f"{event_id} {deliveries} {time.monotonic()}\n")
