"""`adopt-gem` on both databases and a real server: a team moves a service from Rails to here."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import nats
import nats.errors
import nats.js.api
import pytest
from nats.aio.client import Client
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from typer.testing import Result

from app.settings import ROOT
from jetstream_bridge import Bridge, Consumers, Event
from jetstream_bridge.cli import service as service_of_commands
from jetstream_bridge.operations import gem_rows
from jetstream_bridge.service.bridge_config import bridge_config
from jetstream_bridge.service.database import open_database
from jetstream_bridge.service.schema import migrate
from jetstream_bridge.testing.barrier import barrier
from jetstream_bridge.testing.servers import NatsServer
from tests.bridge.support import envelope
from tests.cli.moving import DEAD, DURABLE, INCOMING, OUTGOING, STREAM, Move
from tests.service.conftest import MakeSettings
from tests.waiting import eventually


@pytest.fixture
def move(
    database_url: str, nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Move:
    consumers = Consumers()

    @consumers.on("order.changed")
    async def handle(event: Event[dict[str, object]]) -> None: ...

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("app.consumers.load_consumers", lambda: consumers)
    monkeypatch.setattr(service_of_commands, "prepare_logging", lambda *_: None)
    for name, value in {
        "APP_NAME": "orders",
        "DESTINATION_APP": "billing",
        "NATS_ENV": "test",
        "NATS_URLS": nats_server.url,
        "DATABASE_URL": database_url,
    }.items():
        monkeypatch.setenv(name, value)
    return Move(database_url, nats_server.url)


async def _gem_worked(client: Client) -> None:
    """The gem handled e1 and could not acknowledge it, dead-lettered e2, and gave e3 up."""
    stream = client.jetstream()
    await stream.add_stream(name=STREAM, subjects=[INCOMING, OUTGOING, DEAD], retention="workqueue")
    for number in (1, 3, 4):
        headers = {"nats-msg-id": f"e{number}"}
        await stream.publish(INCOMING, envelope(f"e{number}").encode(), headers=headers)
    context = json.dumps({"event_id": "random", "original_subject": INCOMING})
    headers = {"nats-msg-id": "e2", "x-dlq-reason": "unrecoverable", "x-dlq-context": context}
    await stream.publish(DEAD, envelope("e2").encode(), headers=headers)
    gem = await stream.pull_subscribe(
        INCOMING, durable=DURABLE, config=nats.js.api.ConsumerConfig(max_deliver=1)
    )
    for message in await gem.fetch(2):
        await message.nak()
    await barrier(client)
    [message] = await gem.fetch(1)
    await message.ack_sync()
    with pytest.raises(nats.errors.TimeoutError):
        await gem.fetch(1, timeout=0.5)


@pytest.fixture
def gem(move: Move) -> Move:
    """What a gem leaves: rows of every kind, and messages that it gave up."""
    move.make_gem_tables()
    for event_id, status in {"e1": "processed", "e2": "processed", "e3": "failed"}.items():
        move.inbox(event_id, status)
    move.inbox("ancient", "processed", days=40)
    for status in ("sent", "pending", "publishing", "failed"):
        move.outbox(f"o-{status}", status)
    move.outbox("o-broken", "pending", payload='"no envelope"')
    move.outbox("ünï", "pending")
    move.stream(_gem_worked)
    return move


def test_a_service_moves(gem: Move, make_settings: MakeSettings) -> None:
    planned = gem("--dry-run")
    assert planned.exit_code == 3
    assert planned.stdout.splitlines() == [
        "would rename jetstream_outbox_events to gem_outbox_events",
        "would rename jetstream_inbox_events to gem_inbox_events",
        "would copy 2 ids of processed events (1 with a dead letter)",
        "would copy 3 unsent events (1 that failed)",
        f"would make consumer {DURABLE} anew: 2 messages left behind, "
        "0 messages delivered and not acknowledged",
        "! 2 events cannot be sent from here, and stay where they are: o-broken, ünï",
        "next: python -m app.cli adopt-gem, then alembic upgrade heads && python -m app.cli "
        "adopt-gem",
    ]
    assert gem("--dry-run").stdout == planned.stdout

    renamed = gem("--yes")
    assert renamed.exit_code == 3
    assert renamed.stdout.splitlines()[-1] == (
        "next: alembic upgrade heads && python -m app.cli adopt-gem"
    )
    assert gem("--yes").exit_code == 3  # and nothing is renamed twice
    migrate(ROOT, gem.database_url)

    done = gem.json("--yes")
    assert (done["processed"], done["dead_lettered"]) == (2, 1)
    assert (done["unsent"], done["failed"], done["unusable"]) == (3, 1, ["o-broken", "ünï"])
    assert [one["left_behind"] for one in done["consumers"]] == [2]
    assert (done["next"], done["renamed"]) == (None, {})
    assert gem.rows(
        "SELECT consumer, event_id, status FROM jetstream_inbox_events ORDER BY event_id"
    ) == [(DURABLE, "e1", "processed"), (DURABLE, "e2", "dead_lettered")]
    assert gem.rows(
        "SELECT event_id, status, last_error FROM jetstream_outbox_events ORDER BY id"
    ) == [
        ("o-pending", "pending", None),
        ("o-publishing", "pending", None),
        ("o-failed", "failed", "NATS::Timeout: no"),
    ]
    again = gem.json("--yes")
    assert (again["unsent"], again["consumers"]) == (0, [])
    assert len(gem.rows("SELECT 1 FROM jetstream_inbox_events")) == 2

    asyncio.run(_goes_on(gem, make_settings))


async def _goes_on(gem: Move, make_settings: MakeSettings) -> None:
    """What the gem handled is not handled again; the rest is, and its letter can be replayed."""
    handled: list[str] = []
    consumers = Consumers()

    @consumers.on("order.changed")
    async def take(event: Event[dict]) -> None:  # type: ignore[type-arg]
        handled.append(event.event_id)

    settings = make_settings(database_url=gem.database_url, nats_urls=gem.nats_url, nats_env="test")
    database = open_database(settings)
    try:
        async with Bridge(
            bridge_config(settings), database.sessions, relay=True, consumers=consumers
        ) as bridge:
            await eventually(lambda: handled == ["e3"], what="what was given up is handled")
            [letter] = (await bridge.letters.page()).items
            await bridge.letters.replay(letter)
            await eventually(lambda: handled == ["e3", "e2"], what="the letter is handled")

            async def sent() -> bool:
                return (await bridge.inspection.stream()).messages == 2

            await eventually(sent, what="the stream has the two events to be sent, and no other")
    finally:
        await database.close()


def test_nothing_changes_while_the_gem_runs(gem: Move) -> None:
    async def asks(client: Client) -> tuple[Any, Any]:
        inbox = client.new_inbox()
        await client.subscribe(inbox)
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{DURABLE}"
        await client.publish(subject, b'{"batch":1,"expires":60000000000}', reply=inbox)
        js = client.jetstream()

        async def waits() -> bool:
            return bool((await js.consumer_info(STREAM, DURABLE)).num_waiting)

        await eventually(waits, what="the gem asks")
        return await asyncio.to_thread(gem, "--yes"), await asyncio.to_thread(gem, "--dry-run")

    refused, planned = gem.stream(asks)
    assert refused.exit_code == 1
    assert f"consumer {DURABLE} is in use by another program" in refused.stderr
    assert planned.exit_code == 3
    assert f"! consumer {DURABLE} is in use by another program" in planned.stdout
    assert len(gem.rows("SELECT 1 FROM jetstream_outbox_events WHERE status = 'pending'")) == 3


def test_a_database_that_was_stamped_is_noticed(gem: Move) -> None:
    """Ours were never made: Alembic was told so when `relation already exists` came."""

    async def stamp(engine: AsyncEngine) -> None:
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE alembic_version (version_num varchar)"))
            await connection.execute(text("INSERT INTO alembic_version VALUES ('bridge_0002')"))

    gem.database(stamp)
    told = gem("--yes")
    assert told.exit_code == 3
    assert told.stdout.splitlines()[-1].startswith(
        "next: alembic stamp base && alembic upgrade heads"
    )


def test_without_tables_of_the_gem_there_is_nothing_to_copy(move: Move) -> None:
    migrate(ROOT, move.database_url)
    done = move("--yes")
    assert (done.exit_code, done.stdout) == (0, "there are no tables of the gem\n")


def test_what_is_not_the_gems_table_is_left(move: Move) -> None:
    async def other(engine: AsyncEngine) -> None:
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE jetstream_outbox_events (id int)"))

    move.database(other)
    refused = move("--yes")
    assert refused.exit_code == 1
    assert "is not as version 4.2 of the gem makes it: it lacks attempts" in refused.stderr
    assert move.rows("SELECT id FROM jetstream_outbox_events") == []


def test_two_tables_of_the_gem_are_not_chosen_from(gem: Move) -> None:
    assert gem("--yes").exit_code == 3
    gem.make_gem_tables(only=0)
    refused = gem("--yes")
    assert refused.exit_code == 1
    assert "gem_outbox_events is there too; remove the one" in refused.stderr


def test_a_stream_that_keeps_its_messages_has_no_durable_made_anew(gem: Move) -> None:
    async def keep(client: Client) -> None:
        js = client.jetstream()
        await js.delete_stream(STREAM)
        await js.add_stream(name=STREAM, subjects=[INCOMING, OUTGOING, DEAD], retention="limits")

    gem.stream(keep)
    assert gem.json("--dry-run", status=3)["consumers"] == []


def test_without_a_stream_the_rows_are_copied(gem: Move) -> None:
    async def remove(client: Client) -> None:
        await client.jetstream().delete_stream(STREAM)

    gem.stream(remove)
    planned = gem.json("--dry-run", status=3)
    assert (planned["processed"], planned["dead_lettered"], planned["consumers"]) == (2, 0, [])


@pytest.mark.parametrize(
    "database_url", [pytest.param("postgresql", marks=pytest.mark.real)], indirect=True
)
def test_who_uses_the_tables_is_not_waited_for(gem: Move, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_LOCK_TIMEOUT", "200ms")

    async def busy(engine: AsyncEngine) -> Result:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT count(*) FROM jetstream_inbox_events"))
            return await asyncio.to_thread(gem, "--yes")

    refused = gem.database(busy)
    assert refused.exit_code == 1
    assert "somebody uses the gem's tables" in refused.stderr
    assert gem.rows("SELECT count(*) FROM jetstream_outbox_events") == [(6,)]  # both or none
    assert gem("--yes").exit_code == 3


def test_many_rows_are_copied_in_portions(move: Move, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gem_rows, "PORTION", 2)
    move.make_gem_tables()
    for number in range(5):
        move.inbox(f"e{number}", "processed")
        move.outbox(f"o{number}", "pending")
    assert move("--yes").exit_code == 3
    migrate(ROOT, move.database_url)
    done = move.json("--yes")
    assert (done["processed"], done["unsent"]) == (5, 5)
    sent = move.rows("SELECT event_id FROM jetstream_outbox_events ORDER BY id")
    assert sent == [(f"o{number}",) for number in range(5)]


def test_what_was_sent_and_deleted_since_is_not_copied_again(gem: Move) -> None:
    assert gem("--yes").exit_code == 3
    migrate(ROOT, gem.database_url)
    assert gem.json("--yes")["unsent"] == 3

    async def clean(engine: AsyncEngine) -> None:
        async with engine.begin() as connection:
            await connection.execute(text("DELETE FROM jetstream_outbox_events"))

    gem.database(clean)
    assert gem.json("--yes")["unsent"] == 0
    assert gem.rows("SELECT 1 FROM jetstream_outbox_events") == []


def test_it_asks(gem: Move) -> None:
    refused = gem()
    assert refused.exit_code == 2
    assert "Is every process of the gem stopped? Nobody can be asked here" in refused.stderr
