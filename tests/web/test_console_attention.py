"""What needs a person is seen from every page, and leads to where it is dealt with."""

from __future__ import annotations

import re

import pytest
from fastapi import FastAPI
from sqlalchemy import text

from jetstream_bridge.operations.open_transactions import OpenTransaction
from jetstream_bridge.service.database import Database
from jetstream_bridge.testing import Deliver, MockServer, VirtualClock
from jetstream_bridge.web.console.formatting import compact_number
from tests.waiting import eventually
from tests.web.conftest import Dead, Outbox
from tests.web.console import BASE, Person


@pytest.fixture
async def paused(app: FastAPI) -> None:
    """No relay sends what a test puts into the outbox."""
    await app.state.bridge.outbox_pause.pause()


@pytest.mark.usefixtures("bridge")
async def test_a_calm_service_has_no_badges(
    person: Person, deliver: Deliver, clock: VirtualClock
) -> None:
    await deliver.until_ready()
    await clock.advance("5s")
    page = await person.get("/admin")
    assert 'class="badge' not in page.answer.text
    assert "data-matters hidden" in page.answer.text
    assert page.answer.text.count('data-state="ok"') == 11, "every part and figure"


@pytest.mark.usefixtures("bridge")
async def test_failed_and_dead_events_are_told_on_every_page_and_lead_to_themselves(
    person: Person, deliver: Deliver, outbox: Outbox, dead: Dead, clock: VirtualClock
) -> None:
    await deliver.until_ready()
    await dead.add(1)
    for number in range(2):
        await outbox.add(f"failed-{number}", status="failed")
    await clock.advance("5s")
    for path in ("outbox", "inbox", "dead-letters", "topology", "nowhere"):
        page = await person.get(f"{BASE}/{path}")
        assert "Outbox2 failed" in page.text and "Dead letters1 to look at" in page.text
    page = await person.get("/admin")
    assert "2 events could not be sent. Show" in page.text
    assert "1 event could not be handled. Show" in page.text
    for address in (
        "/outbox?status=failed",
        "/outbox?status=pending",
        "/outbox?status=sent",
        "/inbox?status=processed",
        "/dead-letters",
        "/topology",
    ):
        assert (await person.get(page.link(address))).status == 200
    live = (await person.client.get(f"{BASE}/live")).json()
    states = {figure["key"]: figure["state"] for figure in live["figures"]}
    assert (states["failed"], states["letters"], states["lag"]) == ("bad", "bad", "ok")
    assert live["badges"]["outbox"] == {"tone": "bad", "number": "2", "meaning": "failed"}


@pytest.mark.usefixtures("paused")
async def test_blocked_events_are_told_and_listed(
    person: Person, outbox: Outbox, database: Database, clock: VirtualClock
) -> None:
    for name, resource in (("head", "1"), ("follower", "1"), ("free", "2")):
        await outbox.add(name, resource=resource)
    async with database.engine.begin() as connection:
        sql = """UPDATE jetstream_outbox_events SET held = true, retry_at =
                 CASE event_id WHEN 'head' THEN '2099-01-01 00:00:00.000000' END
                  WHERE event_id <> 'free'"""
        await connection.execute(text(sql))
    await clock.advance("5s")
    page = await person.get("/admin")
    assert "Outbox2 blocked" in page.text and "2 blocked" in page.text
    blocked = await person.get(page.link("status=blocked"))
    assert ("head" in blocked.text, "follower" in blocked.text) == (True, True)
    assert "order:2" not in blocked.text
    assert '<option value="blocked" selected>' in blocked.answer.text


async def test_an_outage_of_nats_is_told_first(
    person: Person, mock_nats: MockServer, app: FastAPI, clock: VirtualClock
) -> None:
    mock_nats.stop()
    await eventually(lambda: not app.state.bridge.connection.connected)
    await clock.advance("5s")
    outbox = await person.get(f"{BASE}/outbox")
    assert re.search(r"Overview[12] not working", outbox.text), "NATS, and the relay that needs it"
    page = await person.get("/admin")
    assert "NATS: not connected to NATS at nats://mock.invalid:4222" in page.text


async def test_an_old_transaction_of_the_database_is_told(
    person: Person, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def old(_: object) -> OpenTransaction:
        return OpenTransaction(4711, "psql", "idle in transaction", 7200.0)

    monkeypatch.setattr("jetstream_bridge.web.console.snapshots.oldest_transaction", old)
    await clock.advance("5s")
    page = await person.get("/admin")
    assert "Connected, old transaction" in page.text
    assert "open for 2 h: pid 4711 (psql, idle in transaction)" in page.text


@pytest.mark.parametrize(
    ("dead", "told"),
    [
        (1234, "all migrations applied, 1,234 dead rows"),
        (2_000_000, "2,000,000 dead rows in outbox and inbox"),
    ],
)
async def test_rows_that_wait_for_a_vacuum_are_told(
    person: Person, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, dead: int, told: str
) -> None:
    async def counted(_: object) -> int:
        return dead

    monkeypatch.setattr("jetstream_bridge.web.console.snapshots.dead_rows", counted)
    await clock.advance("5s")
    page = await person.get("/admin")
    assert told in page.text
    assert ("Connected, vacuum is behind" in page.text) == (dead > 500_000)


def test_a_badge_is_short() -> None:
    numbers = (7, 999, 1000, 12_345, 4_000_000)
    assert [compact_number(number) for number in numbers] == ["7", "999", "1k", "12k", "4M"]
