"""What a forked process of the crash matrix does: one part of a service, until its work is done.

It is the service's own wiring, on a database and a stream of the case's own. Every role may be
begun again after its process has died, and then goes on with what is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import nats
from prometheus_client import REGISTRY
from pydantic import BaseModel
from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession

from app.settings import ROOT, Settings
from chaos.counting import Change
from jetstream_bridge import Consumers, Event, Publisher, Unrecoverable
from jetstream_bridge.operations.dead_letter_queue import BulkOperation
from jetstream_bridge.service.runtime import Runtime, running
from jetstream_bridge.service.schema import migrate
from jetstream_bridge.service.settings_loading import read_settings

LIMIT = 20.0  # seconds for a role's work; it takes about one
ACK_WAIT = 1.0  # seconds
CLAIM = 5  # rows of one claim: the bound on what a relay sends twice when it dies
_PAUSE = 0.02  # seconds between two looks

POISON = "poison"  # the resource whose event no handler takes
FLAKY = "flaky"  # the resource whose event fails at its first run

TABLES = {
    "orders": (
        "CREATE TABLE things (resource VARCHAR(20) NOT NULL, version INTEGER NOT NULL,"
        " PRIMARY KEY (resource, version))"
    ),
    # No guard: a second effect of an event would be a second row.
    "billing": (
        "CREATE TABLE effects (id {key} PRIMARY KEY, event_id VARCHAR(255) NOT NULL,"
        " resource VARCHAR(20) NOT NULL, version INTEGER NOT NULL)"
    ),
}


class Thing(BaseModel):
    id: str
    version: int


@dataclass(frozen=True)
class Place:
    """Where one case happens."""

    env: str
    nats_url: str
    orders_url: str
    billing_url: str
    runs: Path  # a line for each run of a handler

    @property
    def stream(self) -> str:
        return f"{self.env}-jetstream-bridge-stream"

    @property
    def subject(self) -> str:
        return f"{self.env}.orders.sync.billing"

    def settings(self, app: str) -> Settings:
        peer, url = {
            "orders": ("billing", self.orders_url),
            "billing": ("orders", self.billing_url),
        }[app]
        return read_settings(
            Settings,
            _env_file=None,
            app_name=app,
            destination_app=peer,
            nats_env=self.env,
            nats_urls=self.nats_url,
            database_url=url,
            relay_batch_size=CLAIM,
            ack_wait=ACK_WAIT,
            backoff="200ms",
            shutdown_grace="3s",
        )


async def write(place: Place, changes: list[Change]) -> None:
    """Make those of `changes` that are not made yet, each in a transaction with its event."""
    async with running(place.settings("orders")) as runtime:
        for resource, version in changes:
            async with runtime.database.sessions() as session:
                if await _is_made(session, resource, version):
                    continue
                await _make(runtime, session, resource, version)
                await session.commit()


async def _is_made(session: AsyncSession, resource: str, version: int) -> bool:
    known = await (await session.connection()).execute(
        text("SELECT 1 FROM things WHERE resource = :resource AND version = :version"),
        {"resource": resource, "version": version},
    )
    return known.first() is not None


async def _make(runtime: Runtime, session: AsyncSession, resource: str, version: int) -> None:
    await (await session.connection()).execute(
        text("INSERT INTO things (resource, version) VALUES (:resource, :version)"),
        {"resource": resource, "version": version},
    )
    thing = Thing(id=resource, version=version)
    await runtime.bridge.publisher(session).publish("thing.changed", thing)


async def relay(place: Place) -> int:
    """Send what waits; return how many of it the stream had already."""
    async with running(place.settings("orders"), relay=True) as runtime:

        async def is_sent() -> bool:
            async with runtime.database.reading.connect() as connection:
                waiting = await connection.execute(
                    text("SELECT count(*) FROM jetstream_outbox_events WHERE status <> 'sent'")
                )
                return not waiting.scalar_one()

        await _until(is_sent)
    name = "bridge_published_total"
    return int(REGISTRY.get_sample_value(name, {"result": "duplicate"}) or 0)


async def work(place: Place, *, poisoned: bool = True) -> None:
    """Handle what the stream has, until nothing is left in it but letters."""
    client = await nats.connect(place.nats_url)
    js = client.jetstream()

    async def is_handled() -> bool:
        state = (await js.stream_info(place.stream, subjects_filter=place.subject)).state
        return not state.subjects

    consumers = handlers(place.runs, poisoned=poisoned)
    async with running(place.settings("billing"), consumers=consumers):
        await _until(is_handled)
    await client.close()


def handlers(runs: Path, *, poisoned: bool) -> Consumers:
    consumers = Consumers()

    @consumers.on("thing.changed")
    async def apply(event: Event[Thing], session: AsyncSession, events: Publisher) -> None:
        thing = event.payload
        is_first = _note(runs, event.event_id)
        await (await session.connection()).execute(
            text(
                "INSERT INTO effects (event_id, resource, version)"
                " VALUES (:event_id, :resource, :version)"
            ),
            {"event_id": event.event_id, "resource": thing.id, "version": thing.version},
        )
        await events.publish("thing.seen", thing)
        if thing.id == POISON and poisoned:
            raise Unrecoverable("nobody can take this")
        if thing.id == FLAKY and is_first:
            raise ConnectionError("the first run fails")

    return consumers


def _note(runs: Path, event_id: str) -> bool:
    """Write down that a handler runs, and say whether it is the first time for this event."""
    earlier = runs.read_text(encoding="utf-8").split() if runs.exists() else []
    with runs.open("a", encoding="utf-8") as notes:
        notes.write(f"{event_id}\n")
    return event_id not in earlier


async def replay(place: Place) -> None:
    """Put every dead letter back."""
    async with running(place.settings("billing")) as runtime:

        async def is_connected() -> bool:
            return runtime.bridge.connection.connected

        await _until(is_connected)
        await runtime.bridge.letters.replay_many(BulkOperation(limit=100))


async def bring_up_to_date(place: Place) -> None:
    """Apply what is missing of the migrations to the receiver's database."""
    await asyncio.to_thread(migrate, ROOT, place.billing_url)


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LIMIT):
        while not await holds():
            await asyncio.sleep(_PAUSE)
