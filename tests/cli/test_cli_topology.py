"""`topology plan`, `ensure` and `takeover` on a real server, and what they say when they cannot."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import nats
import nats.errors
import nats.js.api
import pytest
from typer.testing import CliRunner, Result

from app.cli import cli
from jetstream_bridge import Consumers, Event
from jetstream_bridge.cli import service as service_of_commands
from jetstream_bridge.testing.servers import NatsServer

STREAM = "test-jetstream-bridge-stream"


@pytest.fixture(autouse=True)
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A service called orders, with a second source, without a database that answers."""
    consumers = Consumers()

    @consumers.on("invoice.paid", source="audit")
    async def handle(event: Event[dict[str, object]]) -> None: ...

    monkeypatch.setattr("app.consumers.load_consumers", lambda: consumers)
    monkeypatch.setattr(service_of_commands, "prepare_logging", lambda *_: None)
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
    expected = {
        "stream": STREAM,
        "changes": [change],
        "conflicts": [],
        "differences": [],
        "unread": [],
    }
    assert json.loads(planned.stdout) == expected
    assert json.loads(run("ensure", "--destination", "shipping", "--json").stdout) == expected
    assert run("plan", "--destination", "shipping").exit_code == 0


def test_what_others_need_is_added(server: NatsServer) -> None:
    """A gem that does not find its own subjects does not start."""
    run("ensure")
    others = ("--for", "crm", "--for", "shop:stock")
    planned = run("plan", *others, "--json")
    added = [
        *("test.crm.sync.orders", "test.orders.sync.crm", "test.crm.sync.dlq"),
        *("test.shop.sync.stock", "test.stock.sync.shop", "test.shop.sync.dlq"),
    ]
    changes = [f"add subject {subject} to stream {STREAM}" for subject in added]
    assert (planned.exit_code, json.loads(planned.stdout)["changes"]) == (3, changes)
    done = run("ensure", *others)
    assert (done.exit_code, done.stdout.splitlines()) == (0, [f"+ {text}" for text in changes])
    assert run("plan", *others).exit_code == 0


def test_with_a_gem_as_peer_its_subjects_are_added_unasked(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("ensure")
    monkeypatch.setenv("GEM_PEER", "true")
    changes = json.loads(run("plan", "--destination", "shipping", "--json").stdout)["changes"]
    added = [change.split()[2] for change in changes]
    assert [subject for subject in added if subject.endswith(".dlq")] == [
        "test.billing.sync.dlq",
        "test.audit.sync.dlq",
        "test.shipping.sync.dlq",
    ]
    assert run("ensure", "--destination", "shipping").exit_code == 0
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


async def _a_gem_gave_up(url: str) -> None:
    """One event that used up the limit of a durable which another program made."""
    client = await nats.connect(url)
    stream = client.jetstream()
    await stream.add_stream(
        name=STREAM, subjects=["test.billing.sync.orders"], retention="workqueue"
    )
    await stream.publish("test.billing.sync.orders", b"{}")
    gem = await stream.pull_subscribe(
        "test.billing.sync.orders",
        durable="test-orders-workers",
        config=nats.js.api.ConsumerConfig(max_deliver=1),
    )
    for message in await gem.fetch(1):
        await message.nak()
    with pytest.raises(nats.errors.TimeoutError):
        await gem.fetch(1, timeout=0.5)
    await client.close()


def test_what_a_gem_left_behind_is_taken_over(server: NatsServer) -> None:
    asyncio.run(_a_gem_gave_up(server.url))
    line = (
        "would make consumer test-orders-workers anew: 1 message left behind, "
        "0 messages delivered and not acknowledged\n"
    )
    planned = run("takeover", "--dry-run")
    assert (planned.exit_code, planned.stdout) == (0, line)
    refused = run("takeover")
    assert (refused.exit_code, "add --yes" in refused.stderr) == (2, True)
    refused = run("ensure")
    assert (refused.exit_code, "then run: python" in refused.stderr) == (1, True)

    done = json.loads(run("takeover", "--yes", "--json").stdout)
    consumer = {"consumer": "test-orders-workers", "limit": 1, "out": 0, "left_behind": 1}
    assert done == {"consumers": [consumer], "dry_run": False}
    again = run("takeover", "--yes")
    assert (again.exit_code, again.stdout) == (0, "no consumer left anything behind\n")
    assert run("ensure").exit_code == 0


def test_without_a_stream_there_is_nothing_to_take_over(server: NatsServer) -> None:
    result = run("takeover", "--dry-run")
    assert result.exit_code == 1
    assert "does not exist; run `topology ensure`" in result.stderr


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
        ({}, ["--for", "a.b"], "'a.b' contains '.'"),
        ({}, ["--for", "shop:"], "'' has no usable length"),
        ({}, ["--for", "shop:shop"], "names one service twice"),
        ({}, ["--for", "orders"], "names one service twice"),
        ({}, ["--for", "dlq"], "would make the dead-letter subject an ordinary one"),
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
