"""A pooler in transaction mode stands before PostgreSQL, and nobody notices."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession

from app.settings import ROOT
from jetstream_bridge import Consumers, Event, status_of
from jetstream_bridge.service.runtime import running
from jetstream_bridge.service.schema import migrate
from jetstream_bridge.testing.postgres import PostgresServer
from jetstream_bridge.testing.servers import NatsServer
from tests.apps import make_app
from tests.pgbouncer import PgBouncer, needs_pgbouncer
from tests.service.conftest import MakeSettings, serving
from tests.waiting import eventually


@pytest.fixture
def pooled_url(postgres_url: str) -> Iterator[str]:
    migrate(ROOT, postgres_url)
    with PgBouncer(postgres_url) as bouncer:
        yield bouncer.url


def test_an_address_and_the_setting_both_say_that_there_is_a_pooler(
    make_settings: MakeSettings,
) -> None:
    address = "postgresql+asyncpg://me@db/orders"
    assert not make_settings(database_url=address).database_is_pooled
    assert make_settings(database_url=f"{address}?pgbouncer=true").database_is_pooled
    assert make_settings(database_url=address, database_pooler="transaction").database_is_pooled


async def test_nothing_listens_behind_a_pooler(make_settings: MakeSettings) -> None:
    address = "postgresql+asyncpg://me@127.0.0.1:1/orders"
    for pooler, listens in (("none", True), ("transaction", False)):
        settings = make_settings(database_url=address, database_pooler=pooler)
        async with running(settings, relay=True):
            names = {task.get_name() for task in asyncio.all_tasks()}
        assert ("relay wake-up" in names) is listens


@needs_pgbouncer
async def test_many_requests_share_three_server_connections_and_none_fails(
    pooled_url: str, make_settings: MakeSettings
) -> None:
    settings = make_settings(
        database_url=pooled_url, database_pooler="transaction", worker_concurrency=12
    )
    async with serving(make_app(settings)) as client:

        async def use(number: int) -> list[int]:
            body = {"name": f"Ada {number}", "email": f"ada{number}@example.com"}
            made = await client.post("/customers", json=body)
            key = made.json().get("id")
            read = await client.get(f"/customers/{key}")
            listed = await client.get("/customers", params={"limit": number % 50 + 1})
            return [made.status_code, read.status_code, listed.status_code]

        found = await asyncio.gather(*(use(number) for number in range(200)))
        readiness = (await client.get("/readyz")).json()

    assert [codes for codes in found if codes != [201, 200, 200]] == []
    assert readiness["checks"]["database"] == {"ok": True}


@needs_pgbouncer
async def test_relay_worker_and_limits_work_through_it(
    pooled_url: str, make_settings: MakeSettings, nats_server: NatsServer
) -> None:
    handled: set[str] = set()
    limits: set[str] = set()
    consumers = Consumers()

    @consumers.on("thing.made")
    async def handle(event: Event[dict[str, str]], session: AsyncSession) -> None:
        shown = await session.exec(text("SHOW statement_timeout"))  # type: ignore[call-overload]
        limits.add(shown.scalar_one())
        handled.add(event.payload["id"])

    one = make_settings(
        database_url=pooled_url,
        nats_urls=nats_server.url,
        database_pooler="transaction",
        database_statement_timeout="7s",
    )
    two = one.model_copy(update={"app_name": "billing", "destination_app": "orders"})
    async with running(one, relay=True) as here, running(two, consumers=consumers) as there:

        async def ready() -> bool:
            checks = [*(await here.health.checks()).values()]
            checks += (await there.health.checks()).values()
            return status_of(checks) == "ready"

        await eventually(ready, limit=20)
        for number in range(100):
            async with here.database.sessions() as session:
                await here.bridge.publisher(session).publish("thing.made", {"id": str(number)})
                await session.commit()
        await eventually(lambda: len(handled) == 100, limit=30)
        letters = await here.bridge.letters.count()

    assert (letters, limits) == (0, {"7s"})


@needs_pgbouncer
async def test_migrations_run_through_it(postgres: PostgresServer) -> None:
    url = postgres.create_database()
    with PgBouncer(url) as bouncer:
        await asyncio.to_thread(migrate, ROOT, f"{bouncer.url}?pgbouncer=true")
    postgres.drop_database(url)


@needs_pgbouncer
async def test_without_the_setting_readiness_names_the_remedy(
    pooled_url: str, make_settings: MakeSettings
) -> None:
    async with serving(make_app(make_settings(database_url=pooled_url))) as client:
        detail = (await client.get("/readyz")).json()["checks"]["database"]["detail"]

    assert "unsupported startup parameter" in detail
    assert "DATABASE_POOLER=transaction" in detail
