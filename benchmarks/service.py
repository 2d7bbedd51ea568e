"""The measured service: the template's own processes, with the benchmark's handlers and route.

Relay: `uvicorn app.main:app`, nothing added. Worker: `python -m benchmarks.service worker HANDLER`,
which runs what `python -m app.worker` runs, with the middlewares that every service has. API:
`uvicorn --factory benchmarks.service:api`. Settings come from the environment, as a service's do.
"""

from __future__ import annotations

import asyncio
import sys
import time

import asyncpg
import uvloop
from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel
from sqlalchemy import insert
from sqlmodel import Field
from sqlmodel.ext.asyncio.session import AsyncSession

from app.events.customers import CustomerView
from app.main import create_app
from app.models import Customer
from app.routers.customers import NewCustomer
from app.settings import Settings
from benchmarks.work import EVENT_TYPE, driver_url
from jetstream_bridge import Consumers, Event
from jetstream_bridge.core.naming import SQLModel
from jetstream_bridge.inbox.middleware import Logging, Metrics, Tracing
from jetstream_bridge.service.database import SessionDep
from jetstream_bridge.service.logs import configure_logging
from jetstream_bridge.service.runtime import Runtime, running
from jetstream_bridge.web.strict import StrictRoute
from jetstream_bridge.web.worker_process import run_worker


class Work(SQLModel, table=True):
    """The business row, with the columns that the peers' model has; `at` is the table's default."""

    __tablename__ = "bench_work"

    id: int | None = Field(default=None, primary_key=True)
    ref: str
    note: str


class Order(BaseModel):
    id: int
    note: str


async def each(event: Event[Order], session: AsyncSession) -> None:
    session.add(Work(ref=event.event_id, note=event.payload.note))


async def many(events: list[Event[Order]], session: AsyncSession) -> None:
    rows = [{"ref": event.event_id, "note": event.payload.note} for event in events]
    await session.exec(insert(Work), params=rows)


async def timed(event: Event[Order], session: AsyncSession) -> None:
    """Note the moment at which the handler began."""
    session.add(Work(ref=event.event_id, note=str(time.time())))


def consumers_of(handler: str) -> Consumers:
    consumers = Consumers()
    consumers.use(Tracing(), Metrics(), Logging())
    if handler == "many":
        consumers.on(EVENT_TYPE, batch=100, within="50ms")(many)
    else:
        consumers.on(EVENT_TYPE)({"each": each, "timed": timed}[handler])
    return consumers


# `POST /customers` as the template has it, without its announcement.
router = APIRouter(route_class=StrictRoute)


@router.post("/plain", status_code=201)
async def plain(new: NewCustomer, request: Request, session: SessionDep) -> CustomerView:
    own: str = request.app.state.settings.app_name
    customer = Customer(name=new.name, email=new.email, origin=own)
    session.add(customer)
    return CustomerView.model_validate(customer)


def api() -> FastAPI:
    """The service's API, and beside it the route that announces nothing."""
    settings = Settings()
    configure_logging(settings.log_level, settings.log_format)
    app = create_app(settings)
    app.include_router(router)
    return app


async def publish(rate: int, seconds: int) -> None:
    """Commit `rate` events a second for `seconds`, each in a transaction of its own.

    The relay is in this process, as it is in the API's. The moments of the commits are written to
    `bench_commits` at the end, with the number of each event.
    """
    settings = Settings()
    configure_logging(settings.log_level, settings.log_format)
    async with running(settings, relay=True) as runtime:
        began, moments = time.time(), []
        async with asyncio.TaskGroup() as group:
            for number in range(rate * seconds):
                await asyncio.sleep(max(0.0, began + number / rate - time.time()))
                moments.append(group.create_task(_commit(runtime, number)))
        await _write_moments(settings, [moment.result() for moment in moments])
        await asyncio.Event().wait()


async def _commit(runtime: Runtime, number: int) -> tuple[str, int, float]:
    """Publish one event; return its id, its number and the moment after the commit."""
    async with runtime.database.sessions() as session:
        result = await runtime.bridge.publisher(session).publish(
            EVENT_TYPE, {"id": number, "note": "x" * 200}
        )
        await session.commit()
        return str(result.event_id), number, time.time()


async def _write_moments(settings: Settings, moments: list[tuple[str, int, float]]) -> None:
    connection = await asyncpg.connect(driver_url(settings.database_url.get_secret_value()))
    await connection.copy_records_to_table(
        "bench_commits", records=moments, columns=["event_id", "number", "at"]
    )
    await connection.close()


def main() -> None:
    what, *arguments = sys.argv[1:]
    if what == "worker":
        consumers = consumers_of(arguments[0])
        run_worker(Settings, lambda: consumers)
    elif what == "publish":
        rate, seconds = map(int, arguments)
        uvloop.run(publish(rate, seconds))
    else:
        sys.exit(f"{what!r} is no process of the benchmark; name `worker` or `publish`")


if __name__ == "__main__":
    main()
