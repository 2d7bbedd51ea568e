"""`topology plan` and `ensure` on a real server, and what they say when they cannot."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import nats
import pytest
from typer.testing import CliRunner, Result

from app.bridge import Consumers, Event
from app.cli import cli
from app.commands import service as service_of_commands
from tests.servers import NatsServer

STREAM = "test-jetstream-bridge-stream"


@pytest.fixture(autouse=True)
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A service called orders, with a second source, without a database that answers."""
    consumers = Consumers()

    @consumers.on("invoice.paid", source="audit")
    async def handle(event: Event[dict[str, object]]) -> None: ...

    monkeypatch.setattr(service_of_commands, "load_consumers", lambda: consumers)
    monkeypatch.setattr(service_of_commands, "prepare_logging", lambda _settings: None)
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "APP_NAME": "orders",
        "DESTINATION_APP": "billing",
        "NATS_ENV": "test",
        "AUTO_PROVISION": "false",
        "DATABASE_URL": "postgresql+asyncpg://nobody:hidden@192.0.2.1/none",
    }.items():
        monkeypatch.setenv(name, value)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["topology", *arguments])


@pytest.fixture
def server(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> NatsServer:
    monkeypatch.setenv("NATS_URLS", nats_server.url)
    return nats_server


def test_what_is_planned_is_done_and_then_there_is_nothing_to_do(server: NatsServer) -> None:
    planned = run("plan")
    assert planned.exit_code == 3
    lines = planned.stdout.splitlines()
    assert lines[0].startswith(f"+ create stream {STREAM} (workqueue, file, 1 replica(s)) with")
    assert lines[1:] == [
        "+ create consumer test-orders-workers for subject test.billing.sync.orders",
        "+ create consumer test-orders-workers-audit for subject test.audit.sync.orders",
    ]
    assert run("plan").stdout == planned.stdout  # it did nothing

    done = run("ensure")
    assert (done.exit_code, done.stdout) == (0, planned.stdout)
    again = run("plan")
    assert (again.exit_code, again.stdout) == (0, f"stream {STREAM} is as this service needs it\n")
    assert run("ensure").stdout == again.stdout


def test_a_further_destination_is_added(server: NatsServer) -> None:
    run("ensure")
    planned = run("plan", "--destination", "shipping", "--json")
    assert planned.exit_code == 3
    change = f"add subject test.orders.sync.shipping to stream {STREAM}"
    expected = {"stream": STREAM, "changes": [change], "conflicts": [], "differences": []}
    assert json.loads(planned.stdout) == expected
    assert json.loads(run("ensure", "--destination", "shipping", "--json").stdout) == expected
    assert run("plan", "--destination", "shipping").exit_code == 0


def test_what_is_left_alone_is_told_and_is_no_difference_to_make(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("ensure")
    monkeypatch.setenv("NATS_DUPLICATE_WINDOW", "10m")
    planned = run("plan")
    assert planned.exit_code == 0
    assert planned.stdout.startswith(f"~ stream {STREAM}: duplicate_window is 2m and not 10m")


def test_a_subject_of_another_stream_stands_in_the_way(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("ensure")
    monkeypatch.setenv("NATS_STREAM", "other")
    for command, status in (("plan", 3), ("ensure", 1)):
        result = run(command)
        assert result.exit_code == status
        assert f"which this service needs, is owned by stream {STREAM}" in result.output


@pytest.mark.real
def test_a_server_that_refuses_is_told() -> None:
    config = (
        "authorization { users: [{ user: orders, password: hidden, permissions: "
        '{ publish: "test.>", subscribe: "_INBOX_orders.>" } }] }'
    )
    with NatsServer(config=config) as server, pytest.MonkeyPatch.context() as environment:
        environment.setenv("NATS_URLS", server.url)
        environment.setenv("NATS_USER", "orders")
        environment.setenv("NATS_PASSWORD", "hidden")
        result = run("ensure")
    assert result.exit_code == 1
    right = f"$JS.API.STREAM.INFO.{STREAM}"
    assert f"NATS does not permit this user to publish on {right}; grant it" in result.stderr
    assert "hidden" not in result.output


def test_a_stream_that_takes_nothing_is_a_failure(server: NatsServer) -> None:
    run("ensure")

    async def seal() -> None:
        client = await nats.connect(server.url)
        info = await client.jetstream().stream_info(STREAM)
        await client.jetstream().update_stream(info.config, sealed=True)
        await client.close()

    asyncio.run(seal())
    result = run("ensure")
    assert result.exit_code == 1
    assert "is sealed and takes no messages; use another NATS_STREAM" in result.stderr


def test_a_server_that_is_away_is_a_failure_within_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service_of_commands, "CONNECT_WITHIN", 0.3)
    monkeypatch.setenv("NATS_URLS", "nats://user:hidden@127.0.0.1:1")
    result = run("plan")
    assert result.exit_code == 1
    assert "not connected to NATS at nats://127.0.0.1:1" in result.stderr
    assert "hidden" not in result.output


@pytest.mark.parametrize(
    ("settings", "arguments", "fault"),
    [
        ({"NATS_USER": "alone"}, [], "NATS_PASSWORD"),
        ({"NATS_CREDS_FILE": "no.creds"}, [], "NATS_CREDS_FILE"),
        ({}, ["--destination", "a.b"], "'a.b' contains '.'"),
        ({"ACK_WAIT": "soon"}, [], "ACK_WAIT"),
    ],
)
def test_what_cannot_be_is_bad_input(
    settings: dict[str, str],
    arguments: list[str],
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    result = run("plan", *arguments)
    assert result.exit_code == 2
    assert fault in result.stderr
