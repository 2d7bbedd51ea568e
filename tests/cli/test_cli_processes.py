"""Every command as a process of its own, on a real nats-server and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nats
import pytest
from sqlalchemy import text

from app.settings import ROOT
from jetstream_bridge.service.database import create_engine
from jetstream_bridge.service.schema import migrate
from jetstream_bridge.testing.servers import NatsServer
from tests.bridge.support import envelope
from tests.cli.commanding import DEAD, DURABLE, INCOMING, OUTGOING
from tests.processes import import_path

LIMIT = 120.0  # seconds for one command; a guard against what hangs
# Makes stdin the terminal of the session, from which Ctrl-C comes as a signal.
_WITH_TERMINAL = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    " signal.signal(signal.SIGINT, signal.SIG_DFL);"  # not ignored, as in a background job
    " os.execv(sys.argv[1], sys.argv[1:])"
)
Environment = dict[str, str]


@pytest.fixture
def environment(nats_server: NatsServer, postgres_url: str, tmp_path: Path) -> Environment:
    migrate(ROOT, postgres_url)
    return os.environ | {
        "APP_NAME": "orders",
        "DESTINATION_APP": "billing",
        "NATS_ENV": "test",
        "NATS_URLS": nats_server.url,
        "DATABASE_URL": postgres_url,
        "PYTHONPATH": import_path(),
    }


class Line:
    """A command line and what became of it."""

    def __init__(self, words: str, status: int = 0) -> None:
        self.words = words
        self.status = status
        self.stdout = self.stderr = ""

    async def run(self, environment: Environment, folder: Path, turns: asyncio.Semaphore) -> None:
        async with turns:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "app.cli",
                *self.words.split(),
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            try:
                async with asyncio.timeout(LIMIT):
                    out, err = await process.communicate()
            finally:
                if process.returncode is None:  # its pipes would be another test's to find
                    process.kill()
                    await process.communicate()
        self.stdout, self.stderr = out.decode(), err.decode()
        assert process.returncode == self.status, f"{self.words}: {self.stdout}{self.stderr}"
        assert "Traceback" not in self.stderr
        assert "\r" not in self.stderr, "there is no progress in a pipe"
        if "--json" in self.words and self.status in (0, 3):
            json.loads(self.stdout)


async def _run(environment: Environment, folder: Path, lines: Sequence[Line]) -> dict[str, str]:
    """Run independent commands, two at a time; return what each wrote to stdout."""
    turns = asyncio.Semaphore(2)
    await asyncio.gather(*(line.run(environment, folder, turns) for line in lines))
    return {line.words: line.stdout for line in lines}


async def _fill(environment: Environment, *, letters: int) -> None:
    """Put dead letters, an event that waits, and outbox rows of every kind where they belong."""
    client = await nats.connect(environment["NATS_URLS"])
    context = {"original_subject": INCOMING, "error_message": "no such product"}
    for number in range(letters):
        headers = {"x-dlq-reason": "unrecoverable", "x-dlq-context": json.dumps(context)}
        body = envelope(f"dead{number}").encode()
        await client.jetstream().publish(DEAD, body, headers=headers)
    await client.close()
    engine = create_engine(environment["DATABASE_URL"])
    insert = text(
        "INSERT INTO jetstream_outbox_events (event_id, subject, payload, status, sent_at)"
        " VALUES (:id, :subject, CAST(:payload AS json), CAST(:status AS varchar),"
        " CASE WHEN CAST(:status AS varchar) = 'sent' THEN now() - interval '9 days' END)"
    )
    rows = {"f1": "failed", "f2": "failed", "p1": "pending", "s1": "sent"}
    async with engine.begin() as connection:
        for name, status in rows.items():
            row = {"id": name, "subject": OUTGOING, "payload": envelope(name), "status": status}
            await connection.execute(insert, row)
    await engine.dispose()


async def test_the_whole_set(environment: Environment, tmp_path: Path) -> None:
    await _run(
        environment,
        tmp_path,
        [
            Line("health", 1),
            Line("test-connection --json"),
            Line("dlq list", 1),
        ],
    )
    await _run(environment, tmp_path, [Line("topology ensure")])
    await _fill(environment, letters=3)
    said = await _run(
        environment,
        tmp_path,
        [
            Line("health --json"),
            Line("lag"),
            Line("debug --json"),
            Line("outbox list --status failed"),
            Line("dlq show 2"),
            Line("dlq replay --all --dry-run"),
            Line("dlq purge", 2),
            Line("outbox discard p1", 2),
        ],
    )
    assert json.loads(said["health --json"])["status"] == "ready"
    assert said["lag"].splitlines()[1].split()[:3] == [DURABLE, "yes", "0"]
    assert json.loads(said["debug --json"])["connections"]["database"]["version"].startswith("Po")
    assert re.findall(r" (f\d) ", said["outbox list --status failed"]) == ["f2", "f1"]
    assert said["dlq replay --all --dry-run"].startswith("would replay 3 dead letters\n")

    said = await _run(
        environment,
        tmp_path,
        [
            Line("outbox retry f1"),
            Line("outbox discard p1 --yes"),
            Line("outbox purge --older-than 7d --yes"),
            Line("dlq replay --all --limit 2 --rate 50"),
        ],
    )
    assert said["outbox purge --older-than 7d --yes"].startswith("deleted 1 row ")
    assert said["dlq replay --all --limit 2 --rate 50"].startswith("replayed 2 dead letters\n")
    said = await _run(
        environment,
        tmp_path,
        [Line("dlq purge --yes --json"), Line("outbox stats --json"), Line("lag --json")],
    )
    assert json.loads(said["dlq purge --yes --json"])["discarded"] == 1
    assert json.loads(said["outbox stats --json"]) | {"oldest_pending_seconds": 0} == {
        "pending": 1,
        "failed": 1,
        "sent": 0,
        "oldest_pending_seconds": 0,
        "paused": False,
        "paused_since": None,
    }
    [consumer] = json.loads(said["lag --json"])["consumers"]
    assert (consumer["num_pending"], consumer["oldest_at"][:2]) == (2, "20")


async def test_a_person_sees_how_far_it_is_and_may_interrupt(
    environment: Environment, tmp_path: Path
) -> None:
    await _run(environment, tmp_path, [Line("topology ensure")])
    await _fill(environment, letters=40)
    command = [sys.executable, "-m", "app.cli", "dlq", "replay", "--all", "--rate", "5"]
    seen, status = await asyncio.to_thread(
        _on_a_terminal, command, environment, tmp_path, "replaying 3"
    )
    assert status == 130
    assert "replaying 0 of 40" in seen
    [done] = re.findall(r"interrupted; replayed (\d+) of 40", seen)
    assert "Traceback" not in seen
    left = (await _run(environment, tmp_path, [Line("dlq list --json")]))["dlq list --json"]
    assert len(json.loads(left)["items"]) == 40 - int(done)


def _on_a_terminal(
    command: list[str], environment: Environment, folder: Path, until: str
) -> tuple[str, int]:
    """Run `command` on a terminal and press Ctrl-C when `until` is there."""
    ours, theirs = pty.openpty()
    process: subprocess.Popen[Any] = subprocess.Popen(
        [sys.executable, "-c", _WITH_TERMINAL, *command],
        start_new_session=True,
        cwd=folder,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen, deadline = "", time.monotonic() + LIMIT
    interrupted = False
    while time.monotonic() < deadline:
        if not select.select([ours], [], [], 1.0)[0]:
            continue
        try:
            seen += os.read(ours, 4096).decode()
        except OSError:  # the terminal's other end is closed: the command has ended
            break
        if until in seen and not interrupted:
            os.write(ours, b"\x03")
            interrupted = True
    os.close(ours)
    return seen, process.wait(LIMIT)
