"""`health`, `lag`, `validate`, `test-connection`, `debug`, and how every command looks."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from nats.js.api import ConsumerConfig

from app.cli import cli
from app.settings import ROOT, Settings
from jetstream_bridge import Check
from jetstream_bridge.cli import health, service
from jetstream_bridge.cli.output import Status
from jetstream_bridge.cli.progress import Progress
from jetstream_bridge.cli.relative_times import span
from jetstream_bridge.cli.table import Column, Row, table, width_of
from jetstream_bridge.service import Extensions
from jetstream_bridge.service.fault_lines import database_fault
from jetstream_bridge.service.settings_loading import read_settings
from tests.bridge.support import envelope
from tests.cli.commanding import DURABLE, INCOMING, OUTGOING, STREAM, Commands

MARKER = "markerofsecret"


# --- health


def test_all_is_well(commands: Commands) -> None:
    commands.make_stream()
    report = commands.json("health")
    assert report == {
        "status": "ready",
        "checks": {
            name: {"ok": True} for name in ("database", "migrations", "nats", "stream", "consumers")
        },
        "notes": [],
    }
    assert commands.text("health").splitlines() == [
        f"ok    {name}" for name in ("database", "migrations", "nats", "stream", "consumers")
    ]


def test_what_is_missing_is_named_with_its_remedy(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path / 'empty.db'}")
    checks = commands.json("health", status=1)["checks"]
    assert [name for name, check in checks.items() if check["ok"]] == ["database", "nats"]
    assert checks["migrations"]["detail"].endswith("run: alembic upgrade heads")
    assert checks["stream"]["detail"] == (
        f"stream {STREAM} does not exist; run: python -m app.cli topology ensure"
    )
    assert checks["consumers"]["detail"].startswith(f"{DURABLE} missing; start the worker, or run")
    shown = commands.text("health", status=1)
    assert "FAIL  stream      stream" in shown
    assert "\n                  run: python -m app.cli topology ensure\n" in shown

    commands.make_stream()
    monkeypatch.setenv("DESTINATION_APP", "shipping")
    monkeypatch.setenv("AUTO_PROVISION", "false")
    assert commands.json("health", status=1)["checks"]["stream"]["detail"] == (
        f"stream {STREAM} lacks test.orders.sync.shipping, test.shipping.sync.orders; "
        "run: python -m app.cli topology ensure, as an administrator"
    )


def test_what_hangs_or_is_away_fails_in_time(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_CONNECT_WITHIN", 0.1)
    monkeypatch.setattr("jetstream_bridge.service.health._ANSWER_WITHIN", 0.1)

    async def hang(_health: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr("jetstream_bridge.service.health.Health._ask_database", hang)
    commands.server.stop()
    checks = commands.json("health", status=1)["checks"]
    assert "no answer within 0.1 s; start the database" in checks["database"]["detail"]
    assert "start NATS, or correct NATS_URLS" in checks["nats"]["detail"]
    assert checks["stream"] == {"ok": False, "detail": "not connected to NATS"}


def test_what_wants_a_person_is_noted(commands: Commands) -> None:
    commands.make_stream()
    commands.add("e1", status="failed")
    commands.text("outbox", "pause")
    commands.letter(1)
    commands.put(INCOMING, "{}")
    assert commands.json("health")["notes"] == [
        "1 event could not be sent: outbox list --status failed",
        "relaying is paused, 0 events waiting: outbox resume",
        "1 dead letter: dlq list",
        f"no waiting pulls on {DURABLE}, lag 1 event: is the worker running?",
    ]


def test_events_that_nobody_sends_are_noted(commands: Commands) -> None:
    commands.make_stream()
    commands.add("e1", status="pending")
    assert commands.json("health")["notes"] == []
    commands.rows("UPDATE jetstream_outbox_events SET enqueued_at = '2026-01-01 00:00:00.000000'")
    [note] = commands.json("health")["notes"]
    assert note.startswith("1 event waiting to be sent, the oldest for ")
    assert note.endswith("; outbox list --status pending")


# --- lag


def test_lag_shows_every_consumer_and_the_oldest_event(commands: Commands) -> None:
    commands.make_stream()
    commands.server.drop_consumer(STREAM, DURABLE)
    missing = f"consumer {DURABLE} does not exist; make it: python -m app.cli topology ensure\n"
    assert commands.text("lag") == f"no consumers\n{missing}"
    commands.make_stream()

    async def of_somebody() -> None:
        client = await commands.server.connect()
        await client.jetstream().add_consumer(
            STREAM,
            ConsumerConfig(durable_name="theirs", filter_subject="test.audit.sync.orders"),
        )
        await client.close()

    asyncio.run(of_somebody())
    for _ in range(3):
        commands.put(INCOMING, "{}")
    lines = commands.text("lag").splitlines()
    titles = ["CONSUMER", "OURS", "LAG", "PENDING ACKS", "REDELIVERED", "WAITING PULLS", "OLDEST"]
    assert lines[0].split() == " ".join(titles).split()
    assert lines[1].split() == [DURABLE, "yes", "3", "0", "0", "0", "0s"]
    assert lines[2] == "    no waiting pulls; is the worker running?"
    assert lines[3].split() == ["theirs", "no", "0", "0", "0", "0", "-"]
    ours, theirs = commands.json("lag")["consumers"]
    assert (ours["num_pending"], theirs["oldest_at"]) == (3, None)
    assert ours["oldest_at"].startswith("20")


def test_lag_and_topology_name_what_nobody_reads(commands: Commands) -> None:
    commands.make_stream()
    commands.put(OUTGOING, envelope("e1"))
    [unread] = commands.json("lag")["unread"]
    assert (unread["subject"], unread["waiting"]) == (OUTGOING, 1)
    told = f"1 event waits on {OUTGOING}, which nobody reads; start billing, or correct"
    assert told in " ".join(commands.text("lag").split())
    assert told in commands("topology", "plan").stdout


def test_lag_tells_what_it_may_not_know(commands: Commands) -> None:
    commands.make_stream()
    commands.put(INCOMING, "{}")
    for right in ("STREAM.MSG.GET", "CONSUMER.LIST"):
        commands.server.faults.deny_publish(f"$JS.API.{right}.{STREAM}")
    report = commands.json("lag")
    assert [(c["num_pending"], c["oldest_at"]) for c in report["consumers"]] == [(1, None)]
    assert report["unknown"][0].startswith("other consumers: NATS does not permit")


# --- validate


def test_valid_settings_are_valid_whoever_is_away(commands: Commands) -> None:
    commands.server.stop()
    assert commands.text("validate") == "valid\n"
    assert commands.json("validate") == {"valid": True, "faults": [], "warnings": []}


def test_each_fault_and_each_warning_has_a_line(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ACK_WAIT", "1s")
    [warning, valid] = commands("validate").stdout.splitlines()
    assert warning.startswith("warning: ACK_WAIT is 1s")
    assert valid == "valid"

    monkeypatch.setenv("ACK_WAIT", "soon")
    monkeypatch.setenv("NATS_ENV", "a.b")
    result = commands("validate")
    assert (result.exit_code, result.stdout) == (2, "")
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == [
        "NATS_ENV",
        "ACK_WAIT",
    ]
    assert len(commands.json("validate", status=2)["faults"]) == 2


def test_what_a_file_holds_is_checked(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "no.creds").write_text(MARKER)
    monkeypatch.setenv("NATS_CREDS_FILE", str(tmp_path / "no.creds"))
    result = commands("validate")
    assert result.exit_code == 2
    assert "holds no user JWT" in result.stderr
    assert MARKER not in result.output


# --- test-connection


def test_who_answers_is_told(commands: Commands) -> None:
    report = commands.json("test-connection")
    assert report["ok"] is True
    assert report["nats"]["server_version"] == commands.server.version
    assert (report["nats"]["jetstream"], report["nats"]["account"]["streams"]) == (True, 0)
    assert report["database"]["version"].startswith("SQLite 3.")
    lines = commands.text("test-connection").splitlines()
    assert [line[:16].split() for line in lines[:3]] == [
        ["ok", "NATS"],
        ["ok", "JetStream"],
        ["ok", "database"],
    ]


def test_a_user_who_may_not_ask_for_limits_learns_the_rest(commands: Commands) -> None:
    commands.server.faults.deny_publish("$JS.API.INFO")
    assert "answers; this user may not ask for its limits" in commands.text("test-connection")


def test_who_does_not_answer_is_told_with_a_remedy(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "CONNECT_WITHIN", 0.1)
    monkeypatch.setenv("DATABASE_URL", f"postgresql+asyncpg://{MARKER}:{MARKER}@127.0.0.1:1/shop")
    commands.server.stop()
    result = commands("test-connection")
    assert result.exit_code == 1
    assert "FAIL  NATS       not connected to NATS at nats://mock.invalid:4222" in result.stdout
    assert "FAIL  database   postgresql+asyncpg://127.0.0.1:1/shop cannot be used" in result.stdout
    assert MARKER not in result.output

    commands.server.start()
    commands.server.faults.ignore_api("$JS.API.INFO")
    monkeypatch.setattr("jetstream_bridge.operations.inspection.REQUEST_LIMIT", 0.1)
    monkeypatch.setattr(service, "CONNECT_WITHIN", 5.0)
    report = commands.json("test-connection", status=1)
    assert report["nats"]["jetstream"] is False
    assert "is JetStream on" in report["nats"]["error"]


def _fault(cause: str) -> str:
    return database_fault(cause, read_settings(Settings))


def test_faults_of_the_database_have_fitting_remedies(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _fault("database is locked").endswith(
        "another process writes for a long time; try again"
    )
    assert _fault('relation "jetstream_pauses" does not exist').endswith(
        "run: alembic upgrade heads"
    )
    login = f"postgresql+asyncpg://me:{MARKER}@127.0.0.1:5432/shop?password={MARKER}2"
    monkeypatch.setenv("DATABASE_URL", login)
    assert _fault(f'role "me" does not exist, said {MARKER}2') == (
        'postgresql+asyncpg://127.0.0.1:5432/shop cannot be used: role "me" does not exist, said '
        "***; start the database, or correct DATABASE_URL"
    )


# --- debug


def test_a_report_has_everything(commands: Commands) -> None:
    commands.make_stream()
    commands.add("e1", status="failed")
    report = commands.json("debug")
    assert report["names"]["durables"] == [DURABLE]
    assert report["outbox"]["failed"] == 1
    assert report["topology"]["stream"]["exists"] is True
    assert report["handlers"][0]["handles"] == ["order.placed"]
    assert report["versions"]["nats-py"][0].isdigit()
    shown = commands.text("debug")
    assert all(f"\n{section}" in f"\n{shown}" for section in report)


def test_a_report_comes_when_nobody_is_there(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "CONNECT_WITHIN", 0.1)
    monkeypatch.setenv("DATABASE_URL", "postgresql+asyncpg://127.0.0.1:1/shop")
    commands.server.stop()
    report = commands.json("debug")
    for part in ("outbox", "inbox", "topology", "dead_letters"):
        assert "; start " in report[part]["error"]
    assert "not connected" in commands.text("debug")


def test_no_command_shows_a_secret(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "CONNECT_WITHIN", 0.05)
    monkeypatch.setattr(health, "_CONNECT_WITHIN", 0.05)
    database = f"postgresql+asyncpg://{MARKER}:{MARKER}@127.0.0.1:1/shop?password={MARKER}"
    servers = f"nats://{MARKER}:{MARKER}@127.0.0.1:1,nats://{MARKER}:{MARKER}@127.0.0.1:2"
    logins = (
        {"NATS_URLS": servers, "DATABASE_URL": database, "ADMIN_TOKEN": MARKER},
        {"NATS_URLS": "", "NATS_URL": f"tls://{MARKER}@127.0.0.1:1", "NATS_TOKEN": MARKER},
        {"NATS_USER": MARKER, "NATS_PASSWORD": MARKER},
    )
    set_here = {name.lower() for login in logins for name in login}
    secret = {n for n, field in Settings.model_fields.items() if "Secret" in str(field.annotation)}
    assert secret <= set_here
    for login in logins:
        with monkeypatch.context() as environment:
            for name, value in login.items():
                environment.setenv(name, value)
            for command in ("debug", "test-connection", "health", "validate", "lag"):
                assert MARKER not in commands(command).output, command
            assert MARKER not in commands("debug", "--json").output


# --- how commands end


def _ended(capsys: pytest.CaptureFixture[str], work: service.Work, **options: Any) -> Any:
    with pytest.raises(typer.Exit) as ended:
        service.run(work, **options)
    return ended.value.exit_code, capsys.readouterr().err


def test_what_hangs_is_given_up_and_says_how_far_it_came(
    commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress("doing", "did")

    async def hang(part: service.Service) -> Status:
        for _ in range(4):  # longer in all than the limit, which begins anew with each step
            await asyncio.sleep(0.2)
            progress.advance()
            part.step()
        await asyncio.sleep(60)
        return Status.FINE

    status, said = _ended(capsys, hang, within=0.6, progress=progress)
    assert (status, said.startswith("no answer within 0.6 s; ")) == (1, True)
    assert said.endswith("; did 4 before that\n")


def test_ctrl_c_ends_a_command_with_130(
    commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    async def interrupted(_service: service.Service) -> Status:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(60)
        return Status.FINE

    # Whoever started these tests in the background may have had the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert _ended(capsys, interrupted) == (130, "interrupted\n")
    finally:
        signal.signal(signal.SIGINT, before)


# --- how commands present themselves


def _leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and every group, by its words."""
    yield path, command
    if hasattr(command, "list_commands"):
        context = typer.Context(command)
        for name in command.list_commands(context):
            yield from _leaves(command.get_command(context, name), (*path, name))


def test_every_command_has_help_with_an_example_and_json() -> None:
    seen = dict(_leaves(typer.main.get_command(cli)))
    assert len(seen) >= 32
    for path, command in seen.items():
        example = f"python -m app.cli {' '.join(path)}".rstrip()
        assert command.epilog is not None, path
        assert command.epilog.startswith("Example: "), path
        assert example in command.epilog, path
        assert command.help, path
        if not hasattr(command, "list_commands"):
            assert "--json" in [word for option in command.params for word in option.opts], path


def test_the_list_of_commands_loads_none_of_them(commands: Commands) -> None:
    program = (
        "import sys\nfrom app.cli import cli\ntry: cli(['--help'])\nfinally: print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "test-connection" in done.stdout
    heavy = {"alembic", "fastapi", "jinja2", "nats", "pydantic", "rich", "sqlalchemy", "sqlmodel"}
    own = {"app.settings", "app.models", "jetstream_bridge.bridge"}
    assert not (heavy | own) & set(done.stdout.split())


def test_a_table_fits_and_cuts_only_what_may_be_cut() -> None:
    columns = (
        Column("N", numeric=True),
        Column("ID"),
        Column("TEXT", shrinks=True),
        Column("NAME", shrinks=True, keeps_end=True),
    )
    rows = [
        Row(("1", "i" * 40, "t" * 80, "begin" + "-" * 80 + "end"), remark="why " * 100),
        Row(("1000", "", "\u4e16\u754c" * 30, "e\u0301\n")),
    ]
    lines = table(columns, rows).splitlines()
    assert lines[1].startswith("   1  " + "i" * 40 + "  ttt")
    assert "\u2026" in lines[1] and lines[1].endswith("end")
    assert lines[4].endswith("e\u0301\\n")
    assert [width_of(line) <= 100 for line in lines] == [True] * 5
    assert (span(119), span(120), span(7200), span(172_799), span(172_800), span(-3)) == (
        ("119s", "2m", "2h", "47h", "2d", "0s")
    )


class Notes(str):
    pass


def test_the_services_own_checks_are_shown_with_their_resources(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    extensions = Extensions(Settings)
    fault = ""

    @extensions.resource
    async def notes() -> AsyncIterator[Notes]:
        if fault:
            raise OSError(fault)
        yield Notes("opened")

    @extensions.check(needed=False)
    async def billing(notes: Notes) -> Check:
        return Check(ok=False, detail=f"billing is slow, {notes}")

    monkeypatch.setattr("app.extensions.extensions", extensions)
    commands.make_stream()
    report = commands.json("health")  # it fails, and the service serves all the same
    assert report["checks"]["billing"] == {"ok": False, "detail": "billing is slow, opened"}
    fault = "no notes"
    report = commands.json("health", status=1)
    assert report["checks"]["resources"]["detail"].endswith("cannot be opened: OSError: no notes")
    assert "billing" not in report["checks"]
    assert report["checks"]["database"]["ok"]
