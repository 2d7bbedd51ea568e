"""docs/growing.md, followed from top to bottom, and the grown service run with the fewer rights."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import httpx
import nats
import pytest

from demo.processes import Process
from jetstream_bridge.testing.postgres import PostgresServer
from jetstream_bridge.testing.server_processes import free_port
from jetstream_bridge.testing.servers import NatsServer
from tests.template.baking import ROOT, clean_environment
from tests.template.guides import Guide
from tests.template.test_static import mypy, ruff
from tests.waiting import eventually

PAGE = (ROOT / "docs" / "growing.md").read_text(encoding="utf-8")
LINK = re.compile(r"`(?P<call>add_console\(.*links=.*?\))`")
TOKEN = "t" * 32
START = 60.0  # seconds for a process to be ready

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


def grown(default_service: Path, folder: Path, postgres: PostgresServer, url: str) -> Guide:
    """Follow the page but for its last part, and do what it says in passing."""
    service = folder / "orders-service"
    shutil.copytree(default_service, service)
    database = url.partition("?")[0].rpartition("/")[2]
    page, _, _ = PAGE.partition("## The example goes")
    guide = Guide(page, service, url, sql=lambda text: postgres.run(text, database=database))
    add_import(service / "app/extensions.py", "from jetstream_bridge import Check")
    assert "`from jetstream_bridge import Check` with the imports above" in PAGE
    guide.follow()
    link_the_page(service / "app/main.py")
    return guide


def add_import(path: Path, line: str) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("\nfrom jetstream_bridge", f"\n{line}\nfrom jetstream_bridge", 1))


def link_the_page(path: Path) -> None:
    call = LINK.search(" ".join(PAGE.split()))
    assert call is not None
    text = path.read_text(encoding="utf-8")
    text = text.replace("add_console(app, settings)", call["call"])
    path.write_text(text.replace("import TELEMETRY,", "import TELEMETRY, ConsoleLink,"))


@contextmanager
def running(service: Path, log: Path, **settings: str) -> Iterator[tuple[str, str]]:
    """Run API and worker; return their addresses."""
    ports = {"api": free_port(), "worker": free_port()}
    environment = clean_environment(
        ADMIN_TOKEN=TOKEN, WORKER_PORT=str(ports["worker"]), LOG_FORMAT="json", **settings
    )
    serve = ["-m", "uvicorn", "app.main:app", "--host", "127.0.0.1", "--port", str(ports["api"])]
    commands = {"api": serve, "worker": ["-m", "app.worker"]}
    started = [
        Process(
            name,
            [sys.executable, *command],
            folder=service,
            environment=environment,
            log_file=log.with_suffix(f".{name}"),
        ).start()
        for name, command in commands.items()
    ]
    try:
        yield f"http://127.0.0.1:{ports['api']}", f"http://127.0.0.1:{ports['worker']}"
    finally:
        for process in started:
            assert process.stop(grace=30) == 0, process.last_lines(20)


async def is_ready(client: httpx.AsyncClient, address: str) -> bool:
    try:
        answer = await client.get(f"{address}/readyz")
    except httpx.TransportError:
        return False
    return answer.status_code == 200


@pytest.mark.timeout(400)
async def test_the_guide_can_be_followed_and_the_service_runs_with_fewer_rights(
    default_service: Path,
    mypy_cache: Path,
    tmp_path: Path,
    postgres: PostgresServer,
    nats_server: NatsServer,
) -> None:
    owner = postgres.create_database("shop")
    guide = grown(default_service, tmp_path, postgres, owner)
    ruff(guide.service, *guide.written)
    mypy(guide.service, mypy_cache, *guide.written)
    assert "0 on their way\n" in guide.said
    assert any(said.startswith("fine: 4 published events") for said in guide.said)

    limited = re.sub(r"//[^@]*@", "//shop_app@", owner)
    with running(
        guide.service, tmp_path / "log", DATABASE_URL=limited, NATS_URLS=nats_server.url
    ) as (api, worker):
        async with httpx.AsyncClient(timeout=10) as client:
            await eventually(lambda: is_ready(client, api), limit=START)
            await eventually(lambda: is_ready(client, worker), limit=START)
            await a_parcel_goes_out_and_arrives(client, api, nats_server, owner)
            await operators_see_it(client, api)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await run_as(limited, "DROP TABLE parcels")

    end = Guide(PAGE.partition("## The example goes")[2], guide.service, owner)
    end.follow()
    assert [" passed" in said for said in end.said] == [True, False, False, True]
    assert await run_as(owner, "SELECT to_regclass('customers')") is None


async def a_parcel_goes_out_and_arrives(
    client: httpx.AsyncClient, api: str, nats_server: NatsServer, owner: str
) -> None:
    answer = await client.post(f"{api}/parcels", json={"carrier": "north & sons"})
    assert answer.status_code == 201
    parcel = answer.json()["id"]

    async def is_sent() -> bool:
        sent = "SELECT status FROM jetstream_outbox_events WHERE payload ->> 'resource_id' = $1"
        return await run_as(owner, sent, parcel) == "sent"

    await eventually(is_sent)
    connection = await nats.connect(nats_server.url)
    await connection.jetstream().publish(
        "development.carrier.sync.orders-service", json.dumps(finished(parcel)).encode()
    )
    await connection.close()

    async def has_arrived() -> bool:
        return await run_as(owner, "SELECT delivered_at FROM parcels") is not None

    await eventually(has_arrived)


def finished(parcel: str) -> dict[str, object]:
    return {
        "event_id": "7d4c0f6e-0000-4000-8000-000000000001",
        "schema_version": 1,
        "event_type": "delivery.finished",
        "producer": "carrier",
        "resource_id": parcel,
        "resource_type": "delivery",
        "occurred_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "trace_id": "1",
        "payload": {"parcel_id": parcel},
    }


async def operators_see_it(client: httpx.AsyncClient, api: str) -> None:
    ready = (await client.get(f"{api}/readyz")).json()
    assert ready["checks"]["labels"] == {"ok": False, "detail": "the folder labels/ is missing"}
    assert ready["status"] == "degraded"
    browser = {"accept": "text/html", "origin": api}
    login = f"{api}/admin/console/login"
    await client.post(login, data={"token": TOKEN}, headers=browser)
    page = (await client.get(f"{api}/admin/console/parcels", headers=browser)).text
    assert "<th>Carrier</th>" in page
    assert '<a href="/admin/console/parcels" aria-current="page"><span>Parcels</span></a>' in page


async def run_as(url: str, statement: str, *arguments: object) -> object:
    connection = await asyncpg.connect(url.replace("postgresql+asyncpg://", "postgresql://"))
    try:
        return await connection.fetchval(statement, *arguments)
    finally:
        await connection.close()
