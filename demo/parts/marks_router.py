"""Marks: events whose only use is that they can be counted on the other side."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel
from sqlmodel import text

from app.events import EventsDep
from jetstream_bridge.service.database import SessionDep

router = APIRouter(prefix="/marks", tags=["marks"])


class NewMark(BaseModel):
    number: int


class MarkCount(BaseModel):
    """`effects` is greater than `events` when an event took effect twice."""

    effects: int
    events: int


@router.post("", status_code=202)
async def make_mark(new: NewMark, events: EventsDep) -> dict[str, str]:
    result = await events.publish("mark.made", {"id": f"mark-{new.number}", "number": new.number})
    return {"event_id": result.event_id}


@router.get("")
async def count_marks(session: SessionDep) -> MarkCount:
    connection = await session.connection()
    found = await connection.execute(
        text("SELECT count(*) AS effects, count(DISTINCT event_id) AS events FROM marks")
    )
    return MarkCount.model_validate(dict(found.mappings().one()))
