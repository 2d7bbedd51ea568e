"""`contract` and `asyncapi`: what they say, write and exit with, without NATS and a database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from app.settings import Settings
from jetstream_bridge import Consumers, Event
from jetstream_bridge.core.errors import RegistrationError
from jetstream_bridge.service import Extensions
from tests.cli.commanding import Commands


class Placed(BaseModel):
    id: int
    total: int


class PlacedWithoutTotal(BaseModel):
    id: int
    total: int | None


class Sent(BaseModel):
    id: int
    parcel: str


class Code:
    """What the service has in its modules; a test changes it as a team does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def is_now(self, published: type[BaseModel], handled: Any = dict) -> None:
        extensions, consumers = Extensions(), Consumers()
        extensions.publishes("order.placed")(published)

        async def handle(event: Event[Any]) -> None: ...

        handle.__annotations__["event"] = Event[handled]
        consumers.on("parcel.sent")(handle)
        self._monkeypatch.setattr("app.extensions.extensions", extensions)
        self._monkeypatch.setattr("app.consumers.load_consumers", lambda: consumers)


@pytest.fixture
def code(commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Code:
    monkeypatch.setattr(Settings, "root", tmp_path)
    code = Code(monkeypatch)
    code.is_now(Placed)
    return code


def test_nothing_was_released_yet(commands: Commands, code: Code) -> None:
    result = commands("contract", "check")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "contracts/events.json does not exist: nothing was released yet; write it with: "
        "python -m app.cli contract release\n"
    )


def test_a_release_is_written_and_fits(commands: Commands, code: Code, tmp_path: Path) -> None:
    said = commands.text("contract", "release")
    assert said == ("contracts/events.json has 1 published event and 1 handled event; commit it\n")
    contract = json.loads((tmp_path / "contracts/events.json").read_text())
    assert [one["event_type"] for one in contract["published"]] == ["order.placed"]
    assert commands.text("contract", "check") == (
        "fine: 1 published event and 1 handled event, none breaks what was released\n"
    )


def test_a_breaking_change_has_its_field_its_remedy_and_status_3(
    commands: Commands, code: Code
) -> None:
    commands.text("contract", "release")
    code.is_now(PlacedWithoutTotal, Sent)

    said = commands.text("contract", "check", status=3)
    assert said.splitlines() == [
        "BREAKS  published order.placed v1: total: type was integer, and is integer or null now",
        "        keep it as it was; or declare the new form as version 2:",
        '        @publishes("order.placed", schema_version=2)',
        "BREAKS  handled parcel.sent: id: is new and required, and peers do not send it yet",
        "        accept what was accepted; or raise the version, with an up-caster:",
        '        @upcast("parcel.sent", from_version=1)',
        "BREAKS  handled parcel.sent: parcel: is new and required, and peers do not send it yet",
        "        accept what was accepted; or raise the version, with an up-caster:",
        '        @upcast("parcel.sent", from_version=1)',
        "3 breaking changes",
    ]
    told = commands.json("contract", "check", status=3)
    assert told["breaking"][0] == {
        "direction": "published",
        "event": "order.placed v1",
        "field": "total",
        "change": "type was integer, and is integer or null now",
        "remedy": "keep it as it was; or declare the new form as version 2:",
        "code": '@publishes("order.placed", schema_version=2)',
    }
    assert told["notes"] == []


def test_releasing_what_breaks_asks_first(commands: Commands, code: Code, tmp_path: Path) -> None:
    commands.text("contract", "release")
    before = (tmp_path / "contracts/events.json").read_text()
    code.is_now(PlacedWithoutTotal)

    refused = commands("contract", "release")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "total: type was integer" in refused.stderr
    assert "Release 1 breaking change? Nobody can be asked here: add --yes" in refused.stderr
    assert (tmp_path / "contracts/events.json").read_text() == before

    told = commands.json("contract", "release", "--yes")
    assert len(told["breaking"]) == 1
    assert commands.text("contract", "check").startswith("fine: ")


def test_what_is_new_is_a_note(commands: Commands, code: Code) -> None:
    commands.text("contract", "release")
    path = Path("contracts/events.json")
    contract = json.loads(path.read_text())
    path.write_text(json.dumps(contract | {"published": []}))
    assert commands.text("contract", "check").splitlines() == [
        "note: order.placed v1 is published and not released yet",
        "fine: 1 published event and 1 handled event, none breaks what was released",
    ]


def test_another_file_may_be_the_released_one(
    commands: Commands, code: Code, tmp_path: Path
) -> None:
    elsewhere = str(tmp_path / "elsewhere.json")
    commands.text("contract", "release", "--file", elsewhere)
    assert commands.text("contract", "check", "--file", elsewhere).startswith("fine: ")
    assert not (tmp_path / "contracts").exists()


def test_a_file_that_is_no_contract_is_bad_input(
    commands: Commands, code: Code, tmp_path: Path
) -> None:
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts/events.json").write_text("[]")
    for command in ("check", "release"):
        result = commands("contract", command)
        assert result.exit_code == 2
        assert "contracts/events.json is no contract: " in result.stderr


def test_a_folder_that_cannot_be_written_is_named(
    commands: Commands, code: Code, tmp_path: Path
) -> None:
    (tmp_path / "contracts").write_text("a file in its place")
    result = commands("contract", "release")
    assert result.exit_code in (1, 2)
    assert "contracts/events.json c" in result.stderr
    assert "\n" not in result.stderr.strip()


@pytest.mark.parametrize("command", [["asyncapi"], ["contract", "check"], ["contract", "release"]])
def test_events_that_cannot_be_loaded_are_bad_input(
    commands: Commands, code: Code, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Consumers:
        raise RegistrationError("app/consumers/parcels.py cannot be imported")

    monkeypatch.setattr("app.consumers.load_consumers", broken)
    result = commands(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "app/consumers/parcels.py cannot be imported\n"


def test_the_document_is_that_of_the_service(
    commands: Commands, code: Code, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "orders"\nversion = "4.5.6"\n')
    told = json.loads(commands("asyncapi").stdout)
    assert told["info"]["version"] == "4.5.6"
    assert set(told["operations"]) == {
        "send.order.placed.v1.to-billing",
        "receive.parcel.sent.billing",
        "send.dead-letters",
    }
    assert told["servers"]["nats"]["protocol"] == "nats"
    assert commands.json("asyncapi") == told


def test_a_service_without_a_version_says_so(commands: Commands, code: Code) -> None:
    assert json.loads(commands("asyncapi").stdout)["info"]["version"] == "unknown"
