"""`outbox`, `inbox` and `dlq`: what a person at night sees, does, and is kept from doing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from jetstream_bridge.cli import output
from jetstream_bridge.cli import service as service_of_commands
from tests.cli.commanding import INCOMING, STREAM, Commands

Log = list[Any]


@pytest.fixture(autouse=True)
def log() -> Iterator[Log]:
    with capture_logs() as entries:
        yield entries


def _actions(log: Log) -> list[str]:
    assert all(entry["by"].startswith("cli, ") for entry in log)
    return [entry["action"] for entry in log]


# --- outbox


def test_a_failed_event_is_seen_with_its_error_and_sent_again(commands: Commands, log: Log) -> None:
    commands.add("a" * 36, status="failed", error="the event has 1200345 bytes" + " and more" * 30)
    commands.add("b", status="pending")
    commands.add("c", status="sent")

    assert commands.text("outbox", "stats").splitlines()[1].startswith("failed   1   python -m")
    lines = commands.text("outbox", "list", "--status", "failed").splitlines()
    assert lines[1].split()[1:] == ["a" * 36, "order.changed", "order:1", "failed", "0"]
    assert lines[2].startswith("    the event has 1200345 bytes and more")
    assert lines[-1].endswith("…")

    assert commands.text("outbox", "retry", "--failed") == "1 failed event will be sent now\n"
    assert commands.json("outbox", "stats") == {
        "pending": 2,
        "failed": 0,
        "sent": 1,
        "oldest_pending_seconds": pytest.approx(0, abs=60),
        "paused": False,
        "paused_since": None,
    }
    assert (
        commands.text("outbox", "list", "--status", "failed") == "no failed events in the outbox\n"
    )
    assert _actions(log) == ["outbox.retry_failed"]


def test_a_list_goes_on_where_the_page_before_ended(commands: Commands) -> None:
    for number in range(5):
        commands.add(f"e{number}", status="pending")
    first = commands.json("outbox", "list", "--limit", "3")
    second = commands.json("outbox", "list", "--limit", "3", "--after", first["next"])

    seen = [item["event_id"] for page in (first, second) for item in page["items"]]
    assert seen == ["e4", "e3", "e2", "e1", "e0"]
    assert second["next"] is None
    assert f"more: --after {first['next']}" in commands.text("outbox", "list", "--limit", "3")
    assert "no cursor" in commands("outbox", "list", "--after", "d3").stderr


def test_one_event_is_shown_sent_and_discarded(commands: Commands, log: Log) -> None:
    commands.add("e1", status="failed")
    commands.add("e2", status="sent")

    assert commands.json("outbox", "show", "e1")["payload"]["event_id"] == "e1"
    assert '    "event_id": "e1"' in commands.text("outbox", "show", "e1")
    assert commands.json("outbox", "retry", "e1")["status"] == "pending"
    assert commands.json("outbox", "discard", "e1", "--yes") == {"discarded": 1}
    assert _actions(log) == ["outbox.retry", "outbox.discard"]
    for arguments in (("show", "e1"), ("retry", "e2"), ("discard", "e2", "--yes")):
        refused = commands("outbox", *arguments)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert arguments[1] in refused.stderr


def test_relaying_is_paused_and_goes_on(commands: Commands) -> None:
    assert "outbox resume" in commands.text("outbox", "pause")
    assert commands.json("outbox", "stats")["paused"] is True
    assert "relaying is paused" in commands.text("outbox", "stats")
    assert commands.json("outbox", "resume") == {"paused": False, "paused_since": None}


def test_what_was_sent_long_ago_goes(commands: Commands, log: Log) -> None:
    for days in (1, 3, 10):
        commands.add(f"sent{days}", status="sent", days=days)
    commands.add("failed", status="failed")

    assert commands.json("outbox", "purge", "--older-than", "5d", "--yes") == {"deleted": 1}
    assert commands.text("outbox", "purge", "--older-than", "2d", "--yes").startswith(
        "deleted 1 row "
    )
    assert commands.json("outbox", "purge", "--yes") == {"deleted": 0}
    left = [item["event_id"] for item in commands.json("outbox", "list")["items"]]
    assert left == ["failed", "sent1"]
    assert _actions(log) == ["outbox.purge"] * 3


def test_what_a_stranger_wrote_does_not_command_the_terminal(commands: Commands) -> None:
    commands.rows("DROP TRIGGER jetstream_outbox_check")  # a row from before there were checks
    commands.add("e\x1b[2J\u202e", status="failed", error="red \x1b[31m \x9b31m \U0001f600\n line")
    seen = commands.text("outbox", "list")
    assert "\x1b" not in seen + commands.text("outbox", "show", "e\x1b[2J\u202e")
    assert "e\\x1b[2J\\u202e" in seen
    assert "red \\x1b[31m \\x9b31m \U0001f600\\n line" in seen


# --- asking


DESTRUCTIVE = [
    ["outbox", "discard", "e1"],
    ["outbox", "purge"],
    ["dlq", "discard", "4"],
    ["dlq", "purge"],
]


@pytest.mark.parametrize("arguments", DESTRUCTIVE, ids=" ".join)
def test_who_cannot_be_asked_has_to_say_yes(commands: Commands, arguments: list[str]) -> None:
    commands.make_stream()
    commands.letter(1)
    refused = commands(*arguments)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--yes" in refused.stderr
    assert len(commands.letters()) == 1


def test_who_says_no_gets_nothing_done(
    commands: Commands, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "somebody_is_there", lambda: True)
    commands.make_stream()
    commands.letter(1)
    refused = commands("dlq", "purge", input="n\n")
    assert refused.exit_code == 1
    assert "Throw 1 dead letter away for good?" in refused.stderr
    assert commands("dlq", "purge", input="").exit_code == 130, "the terminal is gone"
    assert log == []
    assert commands("dlq", "purge", input="y\n").stdout.endswith("threw 1 dead letter away\n")


# --- inbox


def test_a_parked_event_is_seen_and_handed_over(commands: Commands, log: Log) -> None:
    commands.make_stream()
    commands.rows(
        "INSERT INTO jetstream_inbox_events (consumer, event_id, subject, stream, stream_seq,"
        " status, deliveries, last_error, body) VALUES ('c', 'e1', ?, 's', 7, 'dead_lettered', 5,"
        " 'no such', ?)",
        INCOMING,
        b"{broken",
    )
    assert commands.text("inbox", "list", "--status", "failed") == "no failed events in the inbox\n"
    lines = commands.text("inbox", "list").splitlines()
    assert lines[1].split()[2:] == ["e1", "-", "-", "dead_lettered", "5"]
    assert lines[2] == "    no such; parked here; hand it over again: inbox replay 1"
    assert commands.json("inbox", "show", "1")["body"] == {"encoding": "utf-8", "data": "{broken"}

    assert commands.json("inbox", "replay", "1")["event_id"] == "e1"
    assert commands.server.stored[-1].data == b"{broken"
    assert _actions(log) == ["inbox.replay"]
    assert "no inbox row 2" in commands("inbox", "show", "2").stderr


def test_a_resource_without_its_type_is_refused(commands: Commands) -> None:
    for command in ("outbox", "inbox"):
        result = commands(command, "list", "--resource", "foo")
        assert result.exit_code == 2
        assert "write its type and its id, like order:17" in result.stderr


# --- dead letters


def test_letters_are_read_where_they_are(commands: Commands) -> None:
    commands.make_stream()
    assert commands.text("dlq", "list") == "no dead letters\n"
    sequence = commands.letter(1, error="no such product " * 30)
    lines = commands.text("dlq", "list", "--reason", "unrecoverable").splitlines()
    kind = ["unrecoverable", "Unrecoverable", "order.changed"]
    assert lines[1].split()[2:] == [*kind, "order:1", "5"]
    assert lines[1].split()[0] == str(sequence)
    assert lines[2].startswith("    no such product no such product")
    assert commands.text("dlq", "list", "--reason", "other") == "no such dead letters\n"

    letter = commands.json("dlq", "show", str(sequence))
    assert (letter["event_id"], letter["obstacle"]) == ("e1", None)
    assert "\nevent\n" in commands("dlq", "show", str(sequence)).stdout
    assert commands("dlq", "show", "999").exit_code == 1


def test_letters_are_found_counted_and_listed_newest_first(commands: Commands) -> None:
    commands.make_stream()
    letters = [commands.letter(number) for number in range(4)]
    commands.letter(9, reason="max_deliver")

    def listed(*options: str) -> list[int]:
        return [item["sequence"] for item in commands.json("dlq", "list", *options)["items"]]

    assert listed("--reason", "unrecoverable") == letters[::-1]
    assert listed("--oldest-first", "--reason", "unrecoverable") == letters
    assert listed("--resource", "order:3") == [letters[3]] == listed("--event-id", "e3")
    assert listed("--error-class", "KeyError") == []
    assert "2 of 5 dead letters" in commands.text("dlq", "list", "--limit", "2")
    first = commands.json("dlq", "list", "--limit", "3")
    assert listed("--after", first["next"]) == letters[1::-1]
    other = commands("dlq", "list", "--oldest-first", "--after", first["next"])
    assert "was begun in another order" in other.stderr
    lines = commands.text("dlq", "kinds", "--event-type", "order.changed").splitlines()
    assert (lines[0], lines[3].split()[:2]) == ("5 of 5 dead letters", ["4", "unrecoverable"])


def test_letters_go_back_by_filter_and_limit_after_a_rehearsal(
    commands: Commands, log: Log
) -> None:
    commands.make_stream()
    for number in range(4):
        commands.letter(number, reason="invalid_payload" if number else "unrecoverable")
    commands.put("test.orders.sync.dlq", "of whom?")
    chosen = ("dlq", "replay", "--all", "--reason", "invalid_payload")

    rehearsed = commands.text(*chosen, "--dry-run").splitlines()
    assert rehearsed[0] == "would replay 3 dead letters"
    assert rehearsed[-1].split() == ["3", "invalid_payload", "Unrecoverable", "order.changed"]
    assert (len(commands.letters()), log) == (5, [])

    done = commands.json(*chosen, "--limit", "2", "--rate", "100")
    since = done.pop("since")
    kind = {"reason": "invalid_payload", "error_class": "Unrecoverable"}
    kinds = [{"letters": 2, **kind, "event_type": "order.changed"}]
    assert done == {"replayed": 2, "skipped": 0, "more": True, "dry_run": False, "kinds": kinds}
    assert commands.json("dlq", "returned", str(since))["returned"] == 0
    back = [sent.data for sent in commands.server.stored if sent.subject == INCOMING]
    assert [b'"e1"' in back[0], b'"e2"' in back[1]] == [True, True]
    rest = commands.text("dlq", "replay", "--all").splitlines()
    assert rest[:2] == [
        "replayed 2 dead letters",
        "skipped 1 that cannot go back as they are; dlq show SEQ says why",
    ]
    assert _actions(log) == ["dlq.replay_many"] * 2
    assert commands.text("dlq", "replay", "--all").startswith("replayed 0 dead letters")


def test_one_letter_goes_back_or_away(commands: Commands, log: Log) -> None:
    commands.make_stream()
    first, second, strange = (
        commands.letter(1),
        commands.letter(2),
        commands.put("test.orders.sync.dlq", "of whom?"),
    )
    assert commands.json("dlq", "replay", str(first))["replayed"] == 1
    assert "does not tell its original subject" in commands("dlq", "replay", str(strange)).stderr
    assert commands.json("dlq", "discard", str(strange), "--yes") == {"discarded": 1}
    assert commands.letters() == [second]
    assert _actions(log) == ["dlq.replay", "dlq.discard"]


def test_what_was_counted_is_thrown_away_and_no_more(commands: Commands, log: Log) -> None:
    commands.make_stream()
    kept = commands.letter(0)
    for number in range(1, 4):
        commands.letter(number, reason="invalid_payload")
    chosen = ("dlq", "purge", "--reason", "invalid_payload", "--yes")
    rehearsed = commands.text(*chosen, "--dry-run").splitlines()
    assert rehearsed[0] == "would throw 3 dead letters away"
    assert rehearsed[-1].split() == ["3", "invalid_payload", "Unrecoverable", "order.changed"]
    assert (len(commands.letters()), log) == (4, [])
    assert commands.json(*chosen)["discarded"] == 3
    assert commands.text(*chosen) == "no such dead letters\n"
    assert commands.letters() == [kept]
    assert _actions(log) == ["dlq.purge"]


def test_a_replay_that_nats_ends_says_how_far_it_came(commands: Commands, log: Log) -> None:
    commands.make_stream()
    for subject in (INCOMING, INCOMING, "test.audit.sync.orders"):
        commands.letter(len(commands.letters()), subject=subject)
    commands.server.faults.refuse_publish(10054, "test.audit.sync.orders")
    ended = commands("dlq", "replay", "--all")
    assert ended.exit_code == 1
    assert "was not replayed" in ended.stderr
    assert "; replayed 2 of 3 before that" in ended.stderr
    assert len(commands.letters()) == 1
    assert (_actions(log), log[0]["replayed"]) == (["dlq.replay_many"], 2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["dlq", "replay"],
        ["dlq", "replay", "3", "--all"],
        ["dlq", "replay", "3", "--dry-run"],
        ["dlq", "replay", "--all", "--rate", "0"],
        ["dlq", "list", "--limit", "0"],
        ["outbox", "retry"],
        ["outbox", "retry", "e1", "--failed"],
        ["outbox", "list", "--status", "lost"],
        ["outbox", "purge", "--older-than", "soon", "--yes"],
        ["inbox", "list", "--after", "x"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_meant_is_bad_input(commands: Commands, arguments: list[str]) -> None:
    result = commands(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr


# --- what is away


def test_without_nats_the_tables_are_there_and_the_stream_is_not(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_of_commands, "CONNECT_WITHIN", 0.1)
    commands.server.stop()
    assert commands.json("outbox", "stats")["failed"] == 0
    assert commands.json("inbox", "list")["items"] == []
    away = commands("dlq", "list")
    assert (away.exit_code, away.stdout) == (1, "")
    assert away.stderr.startswith("not connected to NATS at nats://mock.invalid:4222: ")
    assert away.stderr.endswith("; start NATS, or correct NATS_URLS and the login\n")
    assert away.stderr.count("\n") == 1


def test_without_a_stream_the_remedy_is_named(commands: Commands) -> None:
    assert f"stream {STREAM} does not exist; make it:" in commands("dlq", "replay", "--all").stderr
    assert "topology ensure" in commands("dlq", "list").stderr


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+asyncpg://me:hidden@127.0.0.1:1/shop", "start the database, or correct"),
        ("sqlite+aiosqlite:///{folder}/empty.db", "lacks tables"),
        ("sqlite+aiosqlite:///{folder}/nowhere/x.db", "unable to open"),
    ],
)
def test_without_a_database_the_remedy_is_named(
    commands: Commands, url: str, said: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", url.format(folder=tmp_path))
    away = commands("outbox", "list")
    assert (away.exit_code, away.stdout) == (1, "")
    assert said in away.stderr
    assert "hidden" not in away.stderr
    assert away.stderr.count("\n") == 1
