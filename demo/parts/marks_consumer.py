"""Adds a row for each mark, and has no guard of its own: a second effect would be a second row."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel
from sqlmodel import text
from sqlmodel.ext.asyncio.session import AsyncSession

from app.consumers.registry import consumers
from jetstream_bridge import Event

WORK = 0.005  # seconds; work that takes long enough to be interrupted


class MarkMade(BaseModel):
    number: int


@consumers.on("mark.made")
async def count(event: Event[MarkMade], session: AsyncSession) -> None:
    connection = await session.connection()
    await connection.execute(
        text("INSERT INTO marks (event_id, number) VALUES (:event_id, :number)"),
        {"event_id": event.event_id, "number": event.payload.number},
    )
    await asyncio.sleep(WORK)
