"""What the overview and the topology tell, also while NATS or the database is away."""

from __future__ import annotations

import asyncio
import sqlite3

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event

from app.settings import Settings
from jetstream_bridge import Bridge
from jetstream_bridge.testing import Deliver, MockServer, VirtualClock
from tests.apps import make_app
from tests.waiting import eventually
from tests.web.conftest import DEAD, INCOMING, STREAM, Dead, Outbox
from tests.web.console import BASE, Person


@pytest.mark.usefixtures("bridge")
async def test_the_overview_tells_what_works_and_what_moves(
    person: Person, deliver: Deliver, outbox: Outbox, clock: VirtualClock, dead: Dead
) -> None:
    async def view() -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
        await clock.advance("5s")
        live = (await person.client.get(f"{BASE}/live")).json()
        return (
            {part["key"]: part["label"] for part in live["parts"]},
            {figure["key"]: (figure["value"], figure["note"]) for figure in live["figures"]},
        )

    await deliver.until_ready()
    parts, figures = await view()
    assert parts == {
        "nats": "Connected",
        "database": "Connected",
        "relay": "Running",
        "workers": "Active",
        "process": "Running",
    }
    assert {name: value for name, (value, _) in figures.items()} == {
        **dict.fromkeys(("pending", "published", "lag", "handled", "failed", "letters"), "0")
    }
    await dead.add(1)
    for number in range(10):
        await outbox.add(f"e-{number}", resource=str(number))
    await outbox.add("failed", status="failed")
    await deliver("order.placed", {"id": 2})
    _, figures = await view()
    assert figures["published"][0] == "2", "ten in five seconds"
    assert figures["handled"][0] == "0.1", "one in ten seconds"
    assert (figures["failed"][0], figures["letters"][0]) == ("1", "1")

    await person.done(f"{BASE}/relay/pause")
    await outbox.add("waits")
    await clock.advance("90s")
    parts, figures = await view()
    assert (parts["relay"], figures["pending"]) == ("Paused", ("1", "the oldest for 1 min"))
    page = await person.get("/admin")
    assert "Resume relaying" in page.text and "Retry 1 failed" in page.text


async def test_many_who_look_cost_as_much_as_one(
    person: Person, app: FastAPI, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    engine = app.state.database.engine.sync_engine

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    await clock.advance("5s")
    event.listen(engine, "before_cursor_execute", note)
    await person.client.get(f"{BASE}/live")
    once = len([sql for sql in asked if "jetstream" in sql])
    for _ in range(5):
        await person.client.get(f"{BASE}/live")
    event.remove(engine, "before_cursor_execute", note)
    assert len([sql for sql in asked if "jetstream" in sql]) == once <= 6


async def test_without_nats_the_console_says_what_it_does_not_know(
    person: Person, outbox: Outbox, mock_nats: MockServer, app: FastAPI, clock: VirtualClock
) -> None:
    mock_nats.stop()
    await eventually(lambda: not app.state.bridge.connection.connected)
    await outbox.add("waits", status="failed")
    await clock.advance("5s")
    page = await person.get("/admin")
    assert page.status == 200
    for part in ("Not connected", "Connected", "not connected to NATS at nats://mock.invalid:4222"):
        assert part in page.text
    assert "waits" in (await person.get(f"{BASE}/outbox")).text
    for place in ("dead-letters", "topology", "dead-letters/1", "dead-letters/replay-all"):
        away = await person.get(f"{BASE}/{place}")
        assert (away.status, "Not connected to NATS" in away.text) == (503, True)
        assert "Overview" in away.text, "the way on is there"


async def test_without_the_database_the_console_says_what_it_does_not_know(
    person: Person, app: FastAPI, clock: VirtualClock
) -> None:
    def away(*_: object) -> None:
        raise sqlite3.OperationalError("unable to open the file")

    engine = app.state.database.engine
    event.listen(engine.sync_engine, "do_connect", away)
    await engine.dispose()
    await clock.advance("5s")
    page = await person.get("/admin")
    assert (page.status, "unable to open the file" in page.text) == (200, True)
    assert page.text.count("The database does not answer now.") >= 3
    assert "Connected" in page.text and "Not available" in page.text
    for place in ("outbox", "inbox", "outbox/event?id=e", "inbox/1"):
        lost = await person.get(f"{BASE}/{place}")
        assert (lost.status, "The database does not answer now." in lost.text) == (503, True)
    for action in ("relay/pause", "relay/retry-failed"):
        assert (await person.post(f"{BASE}/{action}")).status == 503
    event.remove(engine.sync_engine, "do_connect", away)


@pytest.mark.usefixtures("bridge")
async def test_a_silent_server_is_not_waited_for_long(
    person: Person, mock_nats: MockServer, clock: VirtualClock
) -> None:
    await clock.advance("5s")
    mock_nats.faults.ignore_api(times=1000)
    began = clock.time
    page = await person.get("/admin")
    assert page.status == 200
    assert clock.time - began < 3
    assert "answer" in page.text


async def test_a_question_that_hangs_is_waited_for_shortly_and_asked_once(
    person: Person, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    async def never(engine: object) -> None:
        asked.append(engine)
        await asyncio.Event().wait()

    monkeypatch.setattr("jetstream_bridge.web.console.snapshots.outbox_backlog", never)
    await clock.advance("5s")
    for _ in range(2):
        began = clock.time
        page = await person.get("/admin")
        assert (page.status, "no answer within 2 s" in page.text) == (200, True)
        assert clock.time - began < 2.5
        await clock.advance("4s")
    assert len(asked) == 1
    await clock.advance("6s")
    assert "no answer within 2 s" in (await person.get("/admin")).text
    assert len(asked) == 2, "given up after 10 s"


@pytest.mark.usefixtures("bridge")
async def test_the_topology_tells_owners_consumers_and_differences(
    person: Person, deliver: Deliver, mock_nats: MockServer
) -> None:
    await deliver.until_ready()
    fine = await person.get(f"{BASE}/topology")
    for part in (STREAM, INCOMING, DEAD, "test-orders-workers", "this service", "As needed"):
        assert part in fine.text
    assert "Stream and consumers are as this service needs them" in fine.text
    mock_nats.streams[STREAM].config["max_age"] = 1_000_000_000
    mock_nats.streams[STREAM].config["num_replicas"] = 3
    different = await person.get(f"{BASE}/topology")
    assert "Different from what this service needs" in different.text


async def _looked(person: Person) -> tuple[dict[str, str], dict[str, str]]:
    live = (await person.client.get(f"{BASE}/live")).json()
    return (
        {part["key"]: part["label"] for part in live["parts"]},
        {figure["key"]: figure["note"] for figure in live["figures"]},
    )


@pytest.mark.parametrize(
    ("off", "relay", "pending", "handled"),
    [
        ({"relay_enabled": False}, "Not in this process", "nothing waits", "the last 10 s"),
        ({"use_outbox": False}, "Not used", "USE_OUTBOX=false", "the last 10 s"),
        ({"use_inbox": False}, "Running", "nothing waits", "USE_INBOX=false"),
    ],
)
async def test_what_is_switched_off_is_said_and_not_counted(
    service_settings: Settings,
    mock_nats: MockServer,
    off: dict[str, bool],
    relay: str,
    pending: str,
    handled: str,
) -> None:
    app = make_app(service_settings.model_copy(update=off), make_client=mock_nats.client)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        checks = app.state.bridge.checks
        await eventually(lambda: all(check.ok for check in checks().values()), what="readiness")
        person = Person(client)
        await person.log_in()
        parts, notes = await _looked(person)
    assert (parts["relay"], notes["pending"]) == (relay, pending)
    assert notes["handled"].startswith(handled)


async def test_workers_that_are_away_are_missed(
    person: Person, bridge: Bridge, deliver: Deliver, clock: VirtualClock, mock_nats: MockServer
) -> None:
    await deliver.until_ready()
    await clock.advance("5s")
    assert (await _looked(person))[0]["workers"] == "Active"
    await bridge.stop()
    await clock.advance("31s")  # until what the worker asked for has run out
    assert (await _looked(person))[0]["workers"] == "No worker"
    mock_nats.put(INCOMING, b"{}")
    await clock.advance("5s")
    page = await person.get("/admin")
    assert "No worker" in page.text and "test-orders-workers" in page.text
    del mock_nats.streams[STREAM].consumers["test-orders-workers"]
    await clock.advance("5s")
    assert (await _looked(person))[0]["workers"] == "Consumer missing"
