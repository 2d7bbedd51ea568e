"""docs/commands.md: it has every command, and commands say what it shows, on a real nats-server."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import nats
import pytest

from jetstream_bridge.testing.servers import NatsServer
from tests.template.baking import ROOT, TEMPLATE, clean_environment

PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```console\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^### `(.+)`$", re.MULTILINE)
STATUS = {  # of the lines that do not end with 0; the first time a line stands on the page
    "python -m app.cli health": 1,
    "ACK_WAIT=soon python -m app.cli validate": 2,
    "python -m app.cli outbox discard a-mistake": 2,
    "python -m app.cli topology plan --destination shipping": 3,
    "python -m app.cli topology plan --for crm:shop": 3,
}
INCOMING = "development.peer-service.sync.orders-service"
OUTGOING = "development.orders-service.sync.peer-service"
DEAD = "development.orders-service.sync.dlq"
FAILED = (
    "0198c5a4-7c1e-7b7e-9c54-6f1d2a3b4c5d",
    "0198c5a4-81d2-7f03-8e11-0a9b8c7d6e5f",
)


def blocks() -> list[list[tuple[str, str]]]:
    """Each block as its command lines, with what the page shows below each."""
    found = []
    for block in BLOCK.finditer(PAGE):
        parts = re.split(r"^\$ (.+)\n", block["text"], flags=re.MULTILINE)
        found.append(list(zip(parts[1::2], parts[2::2], strict=True)))
    return found


def normal(text: str) -> list[str]:
    """What depends neither on the moment nor on the port, and not on the width of a number."""
    kept = "\n".join(line for line in text.splitlines() if "operator's action" not in line)
    kept = re.sub(r"\b\d+[smhd]\b", "0s", kept)
    kept = re.sub(r"\d+(?:[.,]\d+)*", "0", kept)
    return [re.sub(r" +", " ", line).strip() for line in kept.splitlines()]


def run(service: Path, line: str, environment: Mapping[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        ["bash", "-c", line.replace("python -m", f"{sys.executable} -m")],
        cwd=service,
        env=clean_environment(**environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout


def envelope(event_id: str, kind: str = "updated", **payload: object) -> str:
    event = {
        "event_id": event_id,
        "schema_version": 1,
        "event_type": kind,
        "producer": "peer-service",
        "resource_type": "customer",
        "resource_id": "c17",
        "occurred_at": "2026-01-02T03:04:05Z",
        "trace_id": "t",
        "payload": payload,
    }
    return json.dumps(event)


async def fill_stream(url: str) -> None:
    """Two events that nobody reads, and four that could not be handled."""
    client = await nats.connect(url)
    stream = client.jetstream()
    for number in range(2):
        await stream.publish(INCOMING, envelope(f"e{number}").encode())
    lacking = "'customer.updated' lacks a field: email: Field required"
    errors = [("invalid_payload", "ValidationError", lacking)] * 3
    for reason, kind, error in [*errors, ("unrecoverable", "Unrecoverable", "no such customer")]:
        context = json.dumps(
            {"original_subject": INCOMING, "error_class": kind, "error_message": error}
        )
        headers = {"x-dlq-reason": reason, "x-dlq-context": context, "x-deliveries": "1"}
        await stream.publish(DEAD, envelope(f"d{reason}").encode(), headers=headers)
    await client.close()


def fill_tables(file: Path) -> None:
    """Outbox rows that failed, that wait and that were sent; an event parked in the inbox."""
    error = "the event has 1200345 bytes with its headers; the server takes 1048576 (max_payload)"
    rows = [
        *((event_id, "failed", error, 10, None) for event_id in FAILED),
        ("a-mistake", "pending", None, 0, None),
        *((f"old-{number}", "sent", None, 0, "2020-01-01 00:00:00.000000") for number in range(3)),
    ]
    with sqlite3.connect(file) as connection:
        for event_id, status, last_error, attempts, sent_at in rows:
            connection.execute(
                "INSERT INTO jetstream_outbox_events (event_id, subject, payload, status,"
                " last_error, attempts, sent_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (event_id, OUTGOING, envelope(event_id), status, last_error, attempts, sent_at),
            )
        connection.execute(
            "INSERT INTO jetstream_inbox_events (consumer, event_id, subject, payload, stream,"
            " stream_seq, status, deliveries, last_error, body) VALUES"
            " ('development-orders-service-workers', 'large-one', ?, ?, 's', 4711,"
            " 'dead_lettered', 5, 'no such customer', ?)",
            (INCOMING, envelope("large-one"), envelope("large-one").encode()),
        )
    connection.close()


@pytest.fixture
def service(default_service: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "orders-service"
    shutil.copytree(default_service, copy)
    return copy


def said(service: Path) -> Iterator[tuple[str, int, str, str]]:
    """Follow the page; yield each line, its status, what it says, and what the page shows."""
    with NatsServer() as server:
        environment = {
            "NATS_URLS": server.url,
            "DATABASE_URL": "sqlite+aiosqlite:///./service.db",
        }
        run(service, "python -m alembic upgrade heads", environment)
        for block in blocks():
            for line, shown in block:
                yield line, *run(service, line, environment), shown
            if any("topology ensure" in line for line, _ in block):
                asyncio.run(fill_stream(server.url))
                fill_tables(service / "service.db")


def test_commands_say_what_the_page_shows(service: Path) -> None:
    failing = dict(STATUS)
    lines = 0
    for line, status, output, shown in said(service):
        lines += 1
        assert status == failing.pop(line, 0), output
        assert normal(output.replace(str(service), ".")) == normal(shown), line
        if "topology" not in line and "validate" not in line:  # a line of those is a thing to do
            assert all(len(row) <= 100 for row in shown.splitlines()), line
    assert lines == PAGE.count("\n$ ") >= 20
    assert failing == {}


def test_the_page_has_every_command_and_no_other() -> None:
    program = (
        "import typer; from app.cli import cli\n"
        "def names(command, path=()):\n"
        "    if not hasattr(command, 'list_commands'): return [' '.join(path)]\n"
        "    context = typer.Context(command)\n"
        "    return [n for name in command.list_commands(context)\n"
        "            for n in names(command.get_command(context, name), (*path, name))]\n"
        "print(*names(typer.main.get_command(cli)), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=TEMPLATE, capture_output=True, text=True, check=True
    )
    documented = HEADING.findall(PAGE)
    assert sorted(documented) == sorted(done.stdout.splitlines())
    assert len(documented) == len(set(documented))
