"""docs/coming-from-the-gem.md: its commands move a service from Rails, and say what it shows."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sqlite3
import textwrap
from pathlib import Path

import nats
import nats.errors
import nats.js.api
import pytest

from jetstream_bridge.testing.servers import NatsServer
from tests.gem_tables import TABLES, TYPES
from tests.template.baking import ROOT
from tests.template.test_docs_commands import envelope, normal, run

PAGE = (ROOT / "docs" / "coming-from-the-gem.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^ *```console\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)
STREAM = "production-jetstream-bridge-stream"
INCOMING, OUTGOING = "production.worker.sync.api", "production.api.sync.worker"
DEAD = "production.api.sync.dlq"
NOW = "2026-01-02 03:04:05.000000"
STATUS = [3, 3, 0, 0]


def steps() -> list[tuple[str, str]]:
    """Each command of the page, and what the page shows below it."""
    blocks = (textwrap.dedent(block["text"]) for block in BLOCK.finditer(PAGE))
    return [tuple(block.removeprefix("$ ").split("\n", 1)) for block in blocks]  # type: ignore[misc]


async def the_gem_worked(url: str) -> None:
    """One event that it handled and could not acknowledge, one that it gave up, one letter."""
    client = await nats.connect(url)
    stream = client.jetstream()
    await stream.add_stream(name=STREAM, subjects=[INCOMING, OUTGOING, DEAD], retention="workqueue")
    for event_id in ("handled", "given-up"):
        body = envelope(event_id).encode()
        await stream.publish(INCOMING, body, headers={"nats-msg-id": event_id})
    context = json.dumps({"original_subject": INCOMING})
    headers = {"nats-msg-id": "dead", "x-dlq-context": context}
    await stream.publish(DEAD, envelope("dead").encode(), headers=headers)
    durable = nats.js.api.ConsumerConfig(max_deliver=1)
    gem = await stream.pull_subscribe(INCOMING, durable="production-api-workers", config=durable)
    for message in await gem.fetch(2):
        await message.nak()
    with pytest.raises(nats.errors.TimeoutError):
        await gem.fetch(1, timeout=0.5)
    await client.close()


def make_tables(file: Path) -> None:
    """The tables of the gem, with rows of each kind."""
    with sqlite3.connect(file) as connection:
        for statement in TABLES:
            connection.execute(statement.format(**TYPES["sqlite"]))
        for event_id in ("handled", "dead"):
            connection.execute(
                "INSERT INTO jetstream_inbox_events (event_id, subject, status, processed_at,"
                " created_at, updated_at) VALUES (?, ?, 'processed', datetime('now'), ?, ?)",
                (event_id, INCOMING, NOW, NOW),
            )
        for status in ("pending", "publishing", "failed", "sent"):
            sent_at = NOW if status == "sent" else None
            connection.execute(
                "INSERT INTO jetstream_outbox_events (event_id, subject, payload, status, sent_at,"
                " created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (status, OUTGOING, json.dumps(envelope(status)), status, sent_at, NOW, NOW),
            )
    connection.close()


def test_the_commands_of_the_page_move_a_service(default_service: Path, tmp_path: Path) -> None:
    service = tmp_path / "api"
    shutil.copytree(default_service, service)
    make_tables(service / "service.db")
    with NatsServer() as server:
        environment = {
            "APP_NAME": "api",
            "DESTINATION_APP": "worker",
            "NATS_ENV": "production",
            "ADMIN_TOKEN": "a-token-of-enough-length",
            "NATS_URLS": server.url,
            "DATABASE_URL": "sqlite+aiosqlite:///./service.db",
        }
        failing = run(service, "python -m alembic upgrade heads", environment)
        assert "already exists" in failing[1], "which is why the page is there"
        asyncio.run(the_gem_worked(server.url))
        for (line, shown), expected in zip(steps(), STATUS, strict=True):
            status, output = run(service, line, environment)
            assert status == expected, output
            if "alembic" not in line:
                assert normal(output) == normal(shown), line
        status, output = run(service, "python -m app.cli adopt-gem --yes", environment)
        assert (status, "copied 0 unsent events" in output) == (0, True)
        rows = "python -m app.cli outbox list --json"
        assert len(json.loads(run(service, rows, environment)[1])["items"]) == 3
