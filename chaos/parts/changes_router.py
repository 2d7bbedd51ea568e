"""Changes of things, each with its event: what is written here has to take effect over there."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel
from sqlmodel import text

from app.events import EventsDep
from jetstream_bridge.service.database import SessionDep

router = APIRouter(prefix="/changes", tags=["changes"])

# The row lock that this takes decides about the order of two changes.
_NEXT = text(
    "INSERT INTO things (resource, version) VALUES (:resource, 1)"
    " ON CONFLICT (resource) DO UPDATE SET version = things.version + 1 RETURNING version"
)
_NOTE = text(
    "INSERT INTO changes (resource, version, poison) VALUES (:resource, :version, :poison)"
)


class NewChange(BaseModel):
    resource: str
    seconds: float  # that handling it takes
    poison: bool = False  # no handler takes it
    flaky: bool = False  # the first run in each process fails


@router.post("", status_code=201)
async def change(new: NewChange, session: SessionDep, events: EventsDep) -> dict[str, int]:
    connection = await session.connection()
    version: int = (await connection.execute(_NEXT, {"resource": new.resource})).scalar_one()
    note = {"resource": new.resource, "version": version, "poison": new.poison}
    await connection.execute(_NOTE, note)
    thing = {"id": new.resource, "version": version, **new.model_dump(exclude={"resource"})}
    await events.publish("thing.changed", thing)
    return {"version": version}
