"""`permissions` prints the rights from settings and handlers alone: no server is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli import cli
from app.settings import Settings
from jetstream_bridge import Consumers, Event
from jetstream_bridge.service.bridge_config import bridge_config
from jetstream_bridge.service.settings_loading import read_settings
from jetstream_bridge.topology.permissions import permissions as rights_of


@pytest.fixture(autouse=True)
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Consumers:
    """A service called orders, with a handler for events of a second source."""
    consumers = Consumers()

    @consumers.on("invoice.paid", source="audit")
    async def handle(event: Event[dict[str, object]]) -> None: ...

    monkeypatch.setattr("app.consumers.load_consumers", lambda: consumers)
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "APP_NAME": "orders",
        "DESTINATION_APP": "billing",
        "NATS_ENV": "test",
        "DATABASE_URL": "postgresql+asyncpg://nobody:hidden@192.0.2.1/none",
        "NATS_URLS": "nats://192.0.2.1:4222",
    }.items():
        monkeypatch.setenv(name, value)
    return consumers


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["permissions", *arguments])


def test_the_text_is_that_of_the_settings_and_the_handlers(service: Consumers) -> None:
    result = run("--restricted", "--destination", "shipping")
    assert result.exit_code == 0
    config = bridge_config(read_settings(Settings, auto_provision=False))
    expected = rights_of(config, service.durables(config), destinations=["shipping"])
    assert result.stdout == expected.as_config()
    assert '"$JS.ACK.test-jetstream-bridge-stream.test-orders-workers-audit.>"' in result.stdout


@pytest.mark.parametrize(
    ("auto_provision", "arguments", "may_create"),
    [
        ("true", [], True),
        ("false", [], False),
        ("false", ["--provisioning"], True),
        ("true", ["--restricted"], False),
    ],
)
def test_without_an_option_it_does_as_auto_provision_says(
    auto_provision: str, arguments: list[str], may_create: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTO_PROVISION", auto_provision)
    assert ("STREAM.CREATE" in run(*arguments).stdout) is may_create


def test_the_rights_of_operators_come_only_when_asked_for() -> None:
    assert "STREAM.MSG.DELETE" not in run("--restricted").stdout
    assert "STREAM.MSG.DELETE" in run("--restricted", "--admin").stdout


def test_a_program_gets_json() -> None:
    told = json.loads(run("--restricted", "--json").stdout)
    assert set(told) == {"title", "publish", "subscribe"}
    assert told["subscribe"][0]["subject"] == "_INBOX_orders.>"


def test_a_name_that_cannot_be_is_bad_input() -> None:
    result = run("--destination", "a.b")
    assert result.exit_code == 2
    assert "'a.b' contains '.'" in result.stderr
    assert result.stdout == ""


def test_settings_that_are_wrong_are_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_NAME", "dlq")
    result = run()
    assert result.exit_code == 2
    assert "APP_NAME" in result.stderr
