"""Adds a row for each effect, and has no guard of its own: a second effect would be a second row.

Each effect is announced back, by an event that commits with it.
"""

from __future__ import annotations

import asyncio

from pydantic import BaseModel
from sqlmodel import text
from sqlmodel.ext.asyncio.session import AsyncSession

from app.consumers.registry import consumers
from jetstream_bridge import Event, Publisher, Unrecoverable

_EFFECT = text("INSERT INTO effects (resource, version) VALUES (:resource, :version)")
_ECHO = text("INSERT INTO echoes (resource, version) VALUES (:resource, :version)")

_failed: set[str] = set()  # events that have failed once in this process


class Thing(BaseModel):
    id: str
    version: int
    seconds: float
    poison: bool
    flaky: bool


class Echo(BaseModel):
    id: str
    version: int


@consumers.on("thing.changed")
async def apply(event: Event[Thing], session: AsyncSession, events: Publisher) -> None:
    thing = event.payload
    effect = {"resource": thing.id, "version": thing.version}
    await (await session.connection()).execute(_EFFECT, effect)
    await events.publish("thing.echoed", Echo(id=thing.id, version=thing.version))
    if thing.poison:
        raise Unrecoverable("nobody can take this")
    if thing.flaky and event.event_id not in _failed:
        _failed.add(event.event_id)
        raise ConnectionError("another system did not answer")
    await asyncio.sleep(thing.seconds)


@consumers.on("thing.echoed")
async def note(event: Event[Echo], session: AsyncSession) -> None:
    echo = {"resource": event.payload.id, "version": event.payload.version}
    await (await session.connection()).execute(_ECHO, echo)
