"""`dlq … --app PEER`: the dead letters of another service on the same stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.bridge.support import envelope
from tests.cli.commanding import OUTGOING, Commands

DEAD = "test.billing.sync.dlq"


def letter(commands: Commands, number: int, subject: str = OUTGOING) -> int:
    """Put a letter into the stream as the gem called `billing` writes it."""
    context = {"event_id": f"random-{number}", "original_subject": subject, "sequence": None}
    headers = {"nats-msg-id": f"e{number}", "x-dlq-reason": "unrecoverable"}
    headers["x-dlq-context"] = json.dumps(context)
    return commands.put(DEAD, envelope(f"e{number}", resource=str(number)), **headers)


@pytest.fixture(autouse=True)
def log() -> Iterator[list[Any]]:
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def stream(commands: Commands) -> None:
    commands.make_stream()
    ensured = commands("topology", "ensure", "--for", "billing")
    assert ensured.exit_code == 0, ensured.output


@pytest.mark.usefixtures("stream")
def test_they_are_listed_shown_and_put_back(commands: Commands, log: list[Any]) -> None:
    first, second, strange = letter(commands, 1), letter(commands, 2), letter(commands, 3, "x.y")
    own = commands.letter(9)
    listed = commands.json("dlq", "list", "--app", "billing")["items"]
    assert [item["sequence"] for item in listed] == [strange, second, first]
    assert commands.letters() == [own]
    shown = commands.json("dlq", "show", str(strange), "--app", "billing")
    assert "which billing does not read" in shown["obstacle"]
    assert "of this service" in commands("dlq", "show", str(first)).stderr

    told = commands.text("dlq", "replay", str(first), "--app", "billing")
    assert told == f"dead letter {first} is back on its subject; billing takes it\n"
    many = ("dlq", "replay", "--all", "--app", "billing")
    assert commands.json(*many, "--dry-run")["replayed"] == 1
    done = commands.json(*many)
    assert (done["replayed"], done["skipped"], done["more"]) == (1, 1, False)
    assert [(entry["action"], entry["app"]) for entry in log] == [
        ("dlq.replay", "billing"),
        ("dlq.replay_many", "billing"),
    ]
    back = [sent for sent in commands.server.stored if sent.subject == OUTGOING]
    assert [json.loads(sent.data)["event_id"] for sent in back] == ["e1", "e2"]
    for sent in back:
        assert b"\r\nnats-msg-id: replay:" in sent.headers
        assert b"Nats-Msg-Id" not in sent.headers
    assert commands.letters() == [own]


@pytest.mark.usefixtures("stream")
def test_they_are_thrown_away(commands: Commands) -> None:
    first, _ = letter(commands, 1), letter(commands, 2)
    own = commands.letter(9)
    assert commands("dlq", "discard", str(own), "--app", "billing", "--yes").exit_code == 1
    assert commands.json("dlq", "discard", str(first), "--app", "billing", "--yes") == {
        "discarded": 1
    }
    assert commands.json("dlq", "purge", "--app", "billing", "--yes")["discarded"] == 1
    assert commands.letters() == [own]


def test_a_name_that_cannot_be_is_bad_input(commands: Commands) -> None:
    result = commands("dlq", "list", "--app", "a.b")
    assert result.exit_code == 2
    assert "contains '.'" in result.stderr
