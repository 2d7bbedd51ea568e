"""The outbox as operators see it: found, sent again, discarded, paused."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from structlog.testing import capture_logs

from app.settings import Settings
from jetstream_bridge.service.database import Database
from jetstream_bridge.testing import MockServer, Published, VirtualClock
from tests.apps import make_app
from tests.waiting import eventually
from tests.web.conftest import OUTGOING, Outbox


async def _ids(admin: httpx.AsyncClient, **query: str | int) -> list[str]:
    """The ids on all pages, as somebody finds who goes on to the end."""
    found: list[str] = []
    after = None
    for _ in range(100):
        page = await admin.get(
            "/admin/outbox", params={**query, **({"after": after} if after else {})}
        )
        assert page.status_code == 200, page.text
        found += [item["event_id"] for item in page.json()["items"]]
        after = page.json()["next"]
        if after is None:
            return found
    raise AssertionError("the pages have no end")


async def test_pages_go_from_the_newest_to_the_oldest(
    admin: httpx.AsyncClient, outbox: Outbox
) -> None:
    for number in range(5):
        await outbox.add(f"e{number}", status="failed")

    assert await _ids(admin, limit=2) == ["e4", "e3", "e2", "e1", "e0"]
    assert await _ids(admin, limit=5) == ["e4", "e3", "e2", "e1", "e0"]


async def test_a_cursor_is_stable_while_rows_come_and_change(
    admin: httpx.AsyncClient, outbox: Outbox, database: Database
) -> None:
    for number in range(4):
        await outbox.add(f"e{number}", status="failed")
    first = (await admin.get("/admin/outbox", params={"limit": 2})).json()
    await outbox.add("newer", status="failed")
    async with database.engine.begin() as connection:
        await connection.execute(
            text("UPDATE jetstream_outbox_events SET status = 'sent' WHERE event_id = 'e3'")
        )
        await connection.execute(text("DELETE FROM jetstream_outbox_events WHERE event_id = 'e2'"))
    second = await admin.get("/admin/outbox", params={"limit": 2, "after": first["next"]})

    assert [item["event_id"] for item in first["items"]] == ["e3", "e2"]
    assert [item["event_id"] for item in second.json()["items"]] == ["e1", "e0"]


@pytest.mark.parametrize("status", ["pending", "publishing", "sent", "failed"])
async def test_rows_are_found_by_their_status(
    admin: httpx.AsyncClient, outbox: Outbox, mock_nats: MockServer, status: str
) -> None:
    mock_nats.stop()
    for state in ("pending", "publishing", "sent", "failed"):
        await outbox.add(f"{state}-1", status=state)
        await outbox.add(f"{state}-2", status=state)

    assert await _ids(admin, status=status, limit=1) == [f"{status}-2", f"{status}-1"]


async def test_a_page_of_rare_rows_is_bounded_and_says_where_to_go_on(
    admin: httpx.AsyncClient, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jetstream_bridge.operations.listing.SCANNED", 3)
    await outbox.add("old", status="sent")
    for number in range(7):
        await outbox.add(f"e{number}", status="failed")
    first = (await admin.get("/admin/outbox", params={"status": "sent"})).json()

    assert first["items"] == []
    assert first["next"] is not None
    assert await _ids(admin, status="sent") == ["old"]


async def test_rows_are_found_by_their_event_and_by_their_resource(
    admin: httpx.AsyncClient, outbox: Outbox
) -> None:
    for number in range(4):
        await outbox.add(f"e{number}", status="failed", resource=str(number % 2))

    assert await _ids(admin, event_id="e2") == ["e2"]
    assert await _ids(admin, event_id="e2", status="sent") == []
    assert await _ids(admin, resource="order:1") == ["e3", "e1"]
    assert await _ids(admin, resource="order:1", status="pending") == []


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "501"},
        {"limit": "many"},
        {"status": "lost"},
        {"after": "!"},
        {"after": "o"},
        {"after": "i1"},  # of the inbox
        {"after": "offffffffffffffff"},
        {"event_id": "a\x00b"},
    ],
)
async def test_a_bad_question_is_refused(admin: httpx.AsyncClient, query: dict[str, str]) -> None:
    answer = await admin.get("/admin/outbox", params=query)

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["field"] == f"query.{next(iter(query))}"


async def test_a_misspelt_or_repeated_parameter_is_refused(admin: httpx.AsyncClient) -> None:
    for query, said in (
        ("statuss=failed", "known are after, blocked, event_id, event_type, limit"),
        ("status=failed&status=sent", "more than once"),
    ):
        answer = await admin.get(f"/admin/outbox?{query}")
        assert answer.status_code == 422
        assert said in answer.json()["errors"][0]["detail"]
    none = await admin.get("/admin/topology?verbose=1")
    assert "takes none" in none.json()["errors"][0]["detail"]


async def test_one_row_is_shown_whole(admin: httpx.AsyncClient, outbox: Outbox) -> None:
    await outbox.add("e1", status="failed")
    answer = await admin.get("/admin/outbox/e1")

    row = answer.json()
    assert answer.status_code == 200
    assert (row["status"], row["last_error"]) == ("failed", "too large")
    assert (row["subject"], row["resource"]) == (OUTGOING, "order:1")
    assert row["event_type"] == row["payload"]["event_type"] == "order.changed"
    assert row["enqueued_at"].endswith("Z")
    assert (row["headers"], row["body"]) == ({}, None)


async def test_an_id_may_have_slashes(admin: httpx.AsyncClient, outbox: Outbox) -> None:
    await outbox.add("a/b c", status="failed")

    assert (await admin.get("/admin/outbox/a%2Fb%20c")).json()["event_id"] == "a/b c"
    assert (await admin.delete("/admin/outbox/a/b%20c")).status_code == 204


async def test_what_is_not_there_is_named(admin: httpx.AsyncClient) -> None:
    for answer in (
        await admin.get("/admin/outbox/nobody"),
        await admin.post("/admin/outbox/nobody/retry"),
        await admin.delete("/admin/outbox/nobody"),
    ):
        assert answer.status_code == 404
        assert "'nobody'" in answer.json()["detail"]


async def test_the_stats_count_and_tell_the_age(
    admin: httpx.AsyncClient, outbox: Outbox, mock_nats: MockServer, clock: VirtualClock
) -> None:
    mock_nats.stop()
    began = clock.elapsed
    for number, status in enumerate(["pending", "pending", "failed", "sent", "sent", "sent"]):
        await outbox.add(f"e{number}", status=status)
    stats = (await admin.get("/admin/outbox/stats")).json()

    age = stats.pop("oldest_pending_seconds")
    assert 0 <= age <= clock.elapsed - began + 0.01
    assert stats == {
        "pending": 2,
        "failed": 1,
        "sent": 3,
        "paused": False,
        "paused_since": None,
    }


async def test_a_failed_event_is_sent_when_it_is_retried(
    admin: httpx.AsyncClient, outbox: Outbox, published: Published
) -> None:
    await outbox.add("e1", status="failed")
    with capture_logs() as logs:
        answer = await admin.post("/admin/outbox/e1/retry")
    await eventually(lambda: len(published) == 1)

    assert answer.status_code == 200
    assert answer.json()["event_id"] == "e1"
    [line] = [line for line in logs if line["event"] == "operator's action"]
    assert (line["action"], line["event_id"]) == ("outbox.retry", "e1")
    assert line["by"].startswith("api")


async def test_what_is_sent_cannot_be_retried_or_discarded(
    admin: httpx.AsyncClient, outbox: Outbox
) -> None:
    await outbox.add("e1", status="sent")

    for answer in (
        await admin.post("/admin/outbox/e1/retry"),
        await admin.delete("/admin/outbox/e1"),
    ):
        assert answer.status_code == 409
        assert "sent already" in answer.json()["detail"]


async def test_all_failed_events_are_retried_at_once(
    admin: httpx.AsyncClient, outbox: Outbox, published: Published
) -> None:
    for number in range(3):
        await outbox.add(f"e{number}", status="failed")

    assert (await admin.post("/admin/outbox/retry")).json() == {"retried": 3}
    await eventually(lambda: len(published) == 3)
    assert (await admin.post("/admin/outbox/retry")).json() == {"retried": 0}


async def test_a_discarded_event_is_gone(
    admin: httpx.AsyncClient, outbox: Outbox, mock_nats: MockServer
) -> None:
    mock_nats.stop()
    await outbox.add("e1")
    await outbox.add("e2", status="failed")

    for event_id in ("e1", "e2"):
        assert (await admin.delete(f"/admin/outbox/{event_id}")).status_code == 204
    assert await _ids(admin) == []


async def test_a_paused_outbox_sends_nothing_until_it_is_resumed(
    admin: httpx.AsyncClient, outbox: Outbox, published: Published, clock: VirtualClock
) -> None:
    paused = await admin.post("/admin/outbox/pause")
    again = await admin.post("/admin/outbox/pause")
    await outbox.add("e1")
    await clock.advance("1m")

    assert paused.json() == again.json()
    assert paused.json()["paused"] is True
    assert len(published) == 0
    assert (await admin.get("/admin/outbox/stats")).json()["paused"] is True
    ready = await admin.get("/readyz")
    assert ready.status_code == 200, "who pauses does not want the pods to go"
    assert ready.json()["checks"]["relay"]["detail"].startswith("paused since 20")

    assert (await admin.post("/admin/outbox/resume")).json() == {
        "paused": False,
        "paused_since": None,
    }
    await clock.advance("1s")
    assert [event.event_id for event in published] == ["e1"]
    assert (await admin.get("/readyz")).json()["checks"]["relay"] == {"ok": True}


async def test_a_pause_holds_for_every_replica_and_after_a_restart(
    admin: httpx.AsyncClient,
    service_settings: Settings,
    mock_nats: MockServer,
    outbox: Outbox,
    published: Published,
    clock: VirtualClock,
) -> None:
    await admin.post("/admin/outbox/pause")
    other: FastAPI = make_app(service_settings, make_client=mock_nats.client)
    async with other.router.lifespan_context(other):
        await outbox.add("e1")
        await clock.advance("10s")
        assert len(published) == 0

        await admin.post("/admin/outbox/resume")
        await clock.advance("2s")
        assert len(published) == 1


async def test_without_nats_the_outbox_can_be_looked_at(
    admin: httpx.AsyncClient, outbox: Outbox, mock_nats: MockServer
) -> None:
    mock_nats.stop()
    await outbox.add("e1", status="failed")

    assert await _ids(admin) == ["e1"]
    assert (await admin.get("/admin/outbox/stats")).json()["failed"] == 1
    assert (await admin.get("/admin/outbox/e1")).status_code == 200


async def test_a_database_that_is_away_is_said_without_its_details(
    admin: httpx.AsyncClient, database: Database
) -> None:
    async with database.engine.begin() as connection:
        await connection.execute(text("DROP TABLE jetstream_outbox_events"))
    answer = await admin.get("/admin/outbox")

    assert answer.status_code == 503
    assert answer.json()["detail"] == "The database does not answer now."
