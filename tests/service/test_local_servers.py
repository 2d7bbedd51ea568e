"""The servers of `make run` are the machine's: services come and go beside them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy.engine import make_url

from jetstream_bridge.service.local_folder import default_folder, local_nats_url, nats_port_file
from jetstream_bridge.service.local_postgres import is_local_postgres
from jetstream_bridge.service.local_server import NotStartedError
from jetstream_bridge.service.local_servers import LocalServers
from tests.service.dev_runs import LIMIT, Machine, machine
from tests.waiting import eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(6 * LIMIT)]
_READY = "dev      |   stop      Ctrl-C"  # the last line of what it says when all is ready
_ADA = {"name": "Ada", "email": "ada@example.org"}


@pytest.fixture
def local() -> Iterator[Machine]:
    with machine() as made:
        yield made


async def _ready(address: str) -> bool:
    async with httpx.AsyncClient(base_url=address, timeout=5) as client:
        report = (await client.get("/readyz")).json()
    return bool(report["status"] == "ready")


async def _create(address: str) -> str:
    async with httpx.AsyncClient(base_url=address, timeout=5) as client:
        answer = await client.post("/customers", json=_ADA)
    assert answer.status_code == 201, answer.text
    created: str = answer.json()["id"]
    return created


async def _has(address: str, customer: str) -> bool:
    async with httpx.AsyncClient(base_url=address, timeout=5) as client:
        return (await client.get(f"/customers/{customer}")).status_code == 200


async def test_ctrl_c_in_the_first_service_takes_nothing_from_the_second(local: Machine) -> None:
    first, second = local.service("orders", "billing"), local.service("billing", "orders")
    one = first.run()
    await one.says(_READY)
    other = second.run()
    await other.says(_READY)

    assert await one.end(signal.SIGINT) == 0

    assert await _ready(other.api)
    assert (await asyncio.to_thread(second.command, "health")).returncode == 0
    await _create(other.api)
    assert "not ready" not in other.text


async def test_data_do_not_go_with_the_service_that_started_first(local: Machine) -> None:
    first, second = local.service("orders", "billing"), local.service("billing", "orders")
    one = first.run()
    await one.says(_READY)
    other = second.run()
    await other.says(_READY)
    customer = await _create(other.api)
    for run in (one, other):
        assert await run.end(signal.SIGTERM) == 0
    assert (await asyncio.to_thread(first.command, "servers", "stop")).returncode == 0
    shutil.rmtree(first.folder)

    again = second.run()
    await again.says(_READY)

    assert await _has(again.api, customer)
    assert "created the database" not in again.text


async def test_two_starts_at_once_have_ports_of_their_own(local: Machine) -> None:
    services = {name: local.service(name, "peer") for name in ("orders", "billing")}
    runs = {name: service.run() for name, service in services.items()}
    for run in runs.values():
        await run.says(_READY)

    for name, run in runs.items():
        async with httpx.AsyncClient(base_url=run.api, timeout=5) as client:
            health = (await client.get("/health/jetstream")).json()
        assert health["config"]["app_name"] == name, health["config"]
    assert len({run.api for run in runs.values()}) == 2


async def test_with_the_usual_port_taken_all_services_and_commands_use_one_other(
    local: Machine,
) -> None:
    first, second = local.service("orders", "billing"), local.service("billing", "orders")
    with socket.create_server(("127.0.0.1", local.nats_port)):
        one, other = first.run(), second.run()
        for run in (one, other):
            await run.says(_READY)

        customer = await _create(one.api)

        async def replicated() -> bool:
            return await _has(other.api, customer)

        await eventually(replicated, limit=LIMIT, what="the customer at the other service")
        for service in (first, second):
            done = await asyncio.to_thread(service.command, "test-connection", "--json")
            assert done.returncode == 0, done.stdout + done.stderr


async def test_the_servers_are_named_stopped_and_deleted_by_commands(local: Machine) -> None:
    service = local.service("orders", "billing")
    run = service.run()
    await run.says(_READY)
    assert await run.end(signal.SIGINT) == 0

    said = json.loads(service.command("servers", "status", "--json").stdout)["servers"]
    assert {one["name"]: one["address"] for one in said} == {
        "PostgreSQL": f"localhost:{local.postgres_port}",
        "nats-server": f"nats://localhost:{local.nats_port}",
    }
    for one in said:
        os.kill(one["pid"], 0)
        assert one["data"].startswith(str(local.servers))
        assert one["log"].startswith(str(local.servers))

    assert "their data stay" in service.command("servers", "stop").stdout
    said = json.loads(service.command("servers", "status", "--json").stdout)["servers"]
    assert [one["address"] for one in said] == [None, None]
    assert service.command("servers", "stop").stdout == "none runs\ntheir data stay\n"

    refused = service.command("servers", "stop", "--delete-data")
    assert refused.returncode == 2
    assert "add --yes" in refused.stderr
    assert service.command("servers", "stop", "--delete-data", "--yes").returncode == 0
    assert json.loads(service.command("servers", "status", "--json").stdout) == {"servers": []}


async def test_what_answers_and_is_no_postgresql_is_named_with_a_remedy(local: Machine) -> None:
    service = local.service("orders", "billing")
    with socket.create_server(("127.0.0.1", local.postgres_port)):
        run = service.run()
        await run.says(f"what answers at localhost:{local.postgres_port} does not let this service")
        assert await asyncio.to_thread(run.process.wait, LIMIT) == 1
    assert "name a port there on which nothing answers" in run.text
    assert "secret" not in run.text


def test_a_folder_that_cannot_be_used_is_named_with_its_setting(local: Machine) -> None:
    service = local.service("orders", "billing", postgres=False)
    local_file = local.folder / "a-file"
    local_file.touch()
    run = service.run(LOCAL_SERVERS_FOLDER=str(local_file))
    assert run.process.wait(LIMIT) == 1
    assert "name another one in LOCAL_SERVERS_FOLDER" in run.text


def test_an_address_that_nobody_recorded_is_the_usual_one(tmp_path: Path) -> None:
    assert local_nats_url(tmp_path) == "nats://localhost:4222"
    nats_port_file(tmp_path).parent.mkdir()
    nats_port_file(tmp_path).write_text("4224\n")
    assert local_nats_url(tmp_path) == "nats://localhost:4224"


def test_a_user_without_a_home_has_no_local_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as a number: it asks for none, and starts all the same."""
    monkeypatch.setattr("os.geteuid", lambda: 65532)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", _nobody)
    assert local_nats_url(default_folder()) == "nats://localhost:4222"
    with pytest.raises(NotStartedError, match="LOCAL_SERVERS_FOLDER"):
        asyncio.run(LocalServers(default_folder(), print).need_nats())


def _nobody(_number: int) -> None:
    raise KeyError("no such user")


@pytest.mark.parametrize(
    ("address", "is_local"),
    [
        ("postgresql+asyncpg://me@localhost/db", True),
        ("postgresql+asyncpg://me@127.0.0.1:5433/db", True),
        ("postgresql+asyncpg://me@db.example.com/db", False),
        ("postgresql+asyncpg://me@/db?host=/run/postgresql", False),
        ("sqlite+aiosqlite:///x.db", False),
    ],
)
def test_only_a_postgresql_of_this_machine_is_started(address: str, is_local: bool) -> None:
    assert is_local_postgres(make_url(address)) is is_local
