"""Routes that go wrong, and one that publishes what the other side cannot handle."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException
from sqlmodel import text

from app.events import EventsDep
from jetstream_bridge.service.database import SessionDep

router = APIRouter(prefix="/trials", tags=["trials"])


@router.post("/poison/{number}", status_code=202)
async def poison(number: int, events: EventsDep) -> dict[str, str]:
    result = await events.publish("poison.made", {"id": f"poison-{number}"})
    return {"event_id": result.event_id}


@router.post("/rolled-back/{event_id}")
async def roll_back(event_id: str, session: SessionDep, events: EventsDep) -> None:
    await events.publish("mark.made", {"id": event_id, "number": 0}, event_id=event_id)
    await session.rollback()


@router.post("/refused/{event_id}")
async def refuse(event_id: str, events: EventsDep) -> None:
    await events.publish("mark.made", {"id": event_id, "number": 0}, event_id=event_id)
    raise HTTPException(409, "No, after all.")


@router.post("/not-committed/{event_id}", status_code=201)
async def fail_to_commit(event_id: str, session: SessionDep, events: EventsDep) -> None:
    """The pledge refers to a mark that is not there, which is found out at the commit."""
    await events.publish("mark.made", {"id": event_id, "number": 0}, event_id=event_id)
    connection = await session.connection()
    await connection.execute(text("INSERT INTO pledges (mark_id) VALUES (-1)"))
