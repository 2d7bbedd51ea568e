"""What the console's pages show and do, whatever an event has in it."""

from __future__ import annotations

import json

import pytest
from fastapi import FastAPI
from sqlalchemy import text
from structlog.testing import capture_logs

from jetstream_bridge import Unrecoverable
from jetstream_bridge.service.database import Database
from jetstream_bridge.testing import Deliver, MockServer
from tests.waiting import eventually
from tests.web.conftest import DEAD, INCOMING, STREAM, Dead, Handler, Outbox
from tests.web.console import BASE, Person

EVIL = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>&amp;"


@pytest.fixture
async def paused(app: FastAPI) -> None:
    """No relay sends what a test puts into the outbox."""
    await app.state.bridge.outbox_pause.pause()


# --- outbox


@pytest.mark.usefixtures("paused")
async def test_events_of_the_outbox_are_found(person: Person, outbox: Outbox) -> None:
    await outbox.add("sent-1", status="sent", resource="1")
    await outbox.add("failed-1", status="failed", resource="2")
    await outbox.add("waiting-1", resource="2")
    place = f"{BASE}/outbox"

    async def found(**query: str) -> list[str]:
        page = await person.get(place, **{"status": "", "event_id": "", "resource": ""} | query)
        assert page.status == 200
        return [name for name in ("sent-1", "failed-1", "waiting-1") if name in page.text]

    assert await found() == ["sent-1", "failed-1", "waiting-1"]
    assert await found(status="failed") == ["failed-1"]
    assert await found(event_id=" sent-1 ") == ["sent-1"], "pasted with blanks"
    assert await found(resource="order:2") == ["failed-1", "waiting-1"]
    assert await found(resource="order:3") == []
    for wrong in ({"status": "lost"}, {"after": "x"}, {"limit": "1"}):
        assert (await person.get(place, **wrong)).status == 422


@pytest.mark.usefixtures("paused")
async def test_pages_of_the_outbox_lead_on_and_back(person: Person, outbox: Outbox) -> None:
    for number in range(60):
        await outbox.add(f"event-{number:02}", status="failed")
    first = await person.get(f"{BASE}/outbox", status="failed")
    second = await person.get(first.link("after="))
    third = await person.get(second.link("after="))
    seen = [f"event-{n:02}" in first.text + second.text + third.text for n in range(60)]
    assert all(seen) and "event-34" not in first.text
    assert "status=failed" in first.link("after=")
    assert f"{BASE}/outbox?status=failed" in third.links
    assert not [link for link in third.links if "after=" in link]


@pytest.mark.usefixtures("paused")
async def test_a_failed_event_is_read_sent_again_and_discarded(
    person: Person, outbox: Outbox
) -> None:
    await outbox.add("a/b c", status="failed")
    path = (await person.get(f"{BASE}/outbox")).link("outbox/event")
    page = await person.get(path)
    for part in ("too large", "order.changed", '"event_id": "a/b c"', "order:1"):
        assert part in page.text

    with capture_logs() as logs:
        assert "on its way now" in await person.done(f"{BASE}/outbox/retry", {"id": "a/b c"})
    assert [line["by"] for line in logs if line["event"] == "operator's action"] == [
        "console, 127.0.0.1"
    ]
    ask = await person.get((await person.get(path)).link("discard"))
    assert (ask.fields["id"], "cannot be undone" in ask.text) == ("a/b c", True)
    assert (await person.get(path)).status == 200, "asking discards nothing"
    assert "is discarded" in await person.done(f"{BASE}/outbox/discard", ask.fields)
    assert (await person.get(path)).status == 404


async def test_what_cannot_be_is_said_on_a_page(person: Person, outbox: Outbox) -> None:
    await outbox.add("sent-1", status="sent")
    for action in ("retry", "discard"):
        sent = await person.post(f"{BASE}/outbox/{action}", {"id": "sent-1"})
        assert (sent.status, "is sent already" in sent.text) == (409, True)
        unknown = await person.post(f"{BASE}/outbox/{action}", {"id": "no"})
        assert (unknown.status, "no event" in unknown.text) == (404, True)
        nothing = await person.post(f"{BASE}/outbox/{action}", {})
        assert nothing.status == 422
    for path in ("inbox/99", "dead-letters/99", "nowhere", "outbox/event?id=no"):
        page = await person.get(f"{BASE}/{path}")
        assert (page.status, page.answer.headers["content-type"][:9]) == (404, "text/html")


async def test_relaying_is_paused_and_resumed_and_failed_events_sent(
    person: Person, outbox: Outbox, app: FastAPI
) -> None:
    for number in range(2):
        await outbox.add(f"failed-{number}", status="failed", resource=str(number))
    ask = await person.get((await person.get("/admin")).link("pause"))
    assert "Every replica stops" in ask.text
    assert "Paused" in await person.done(f"{BASE}/relay/pause", ask.fields)
    assert await app.state.bridge.outbox_pause.since() is not None
    failed = await person.get(f"{BASE}/outbox", status="failed")
    assert "Relaying is paused on every replica" in failed.text
    assert "Retry all failed" in failed.text
    assert "Relaying goes on" in await person.done(f"{BASE}/relay/resume")
    assert "2 failed events will be sent again" in await person.done(f"{BASE}/relay/retry-failed")
    plain = await person.get("/admin")
    assert "will be sent again" not in plain.text, "a notice is said once"


@pytest.mark.usefixtures("paused")
async def test_events_of_the_outbox_are_found_by_type_and_tell_their_tries(
    person: Person, outbox: Outbox
) -> None:
    await outbox.add("sent-1", status="sent")
    page = await person.get(f"{BASE}/outbox", event_type="order.changed", status="sent")
    assert "sent-1" in page.text and "UTC" in page.text
    assert 'data-label="Tries" class="right">1' in page.answer.text.replace("\n", "")
    assert "sent-1" not in (await person.get(f"{BASE}/outbox", event_type="order")).text


# --- inbox


@pytest.mark.usefixtures("bridge")
async def test_an_event_in_the_inbox_leads_to_its_very_letter(person: Person, dead: Dead) -> None:
    for number in range(3):
        await dead.add(number)
    rows = await person.get(f"{BASE}/inbox", resource="order:1", event_type="order.placed")
    paths = [link for link in rows.links if link.startswith(f"{BASE}/inbox/")]
    assert len(paths) == 1 and "order:1" in rows.text
    event = await person.get(paths[0])
    lead = await person.get(event.link("/letter"))
    assert lead.status == 303
    assert "Failed tries" in event.text and "delivery 1 Unrecoverable: no such" in event.text
    assert '"id": 1' in (await person.get(lead.location)).text
    sequence = lead.location.rpartition("/")[2]
    await person.done(f"{BASE}/dead-letters/discard", {"sequence": sequence, "sure": "yes"})
    gone = await person.get(event.link("/letter"))
    assert (gone.status, "was not found" in gone.text) == (404, True)


async def test_a_parked_event_is_found_and_replayed(
    person: Person, database: Database, mock_nats: MockServer
) -> None:
    async with database.engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO jetstream_inbox_events (consumer, event_id, subject, status,"
                " last_error, body, stream_seq) VALUES ('c', 'e-1', :subject, 'dead_lettered',"
                " 'no such product', :body, 7), ('c', 'e-2', :subject, 'processed', NULL, NULL, 8)"
            ),
            {"subject": INCOMING, "body": b"\xff\x00"},
        )
    page = await person.get(f"{BASE}/inbox", status="dead_lettered")
    assert ("e-1" in page.text, "e-2" in page.text, "Parked" in page.text) == (True, False, True)
    path = page.link("inbox/")
    whole = await person.get(path)
    assert "base64" in whole.text and "/wA=" in whole.text
    assert "with the worker again" in await person.done(f"{path}/replay")
    assert [sent.data for sent in mock_nats.stored if sent.subject == INCOMING] == [b"\xff\x00"]
    other = (await person.get(f"{BASE}/inbox", event_id="e-2")).link("inbox/")
    assert (await person.post(f"{other}/replay")).status == 409


# --- dead letters


@pytest.mark.usefixtures("bridge")
async def test_dead_letters_are_read_and_replayed_one_some_and_all(
    person: Person, dead: Dead, deliver: Deliver, handler: Handler, mock_nats: MockServer
) -> None:
    for number in range(5):
        await dead.add(number)
    await deliver(b"{broken")
    lost = mock_nats.put(DEAD, b"what is this", {})  # of another program
    place = f"{BASE}/dead-letters"

    page = await person.get(place)
    for part in (
        "unrecoverable",
        "Unrecoverable",
        "no such product",
        "tests/web/conftest.py",
        "malformed_json",
        "Cannot be replayed",
    ):
        assert part in page.text
    only = await person.get(place, reason="malformed_json", event_type="")
    assert "no such product" not in only.text
    sequences = [link.rpartition("/")[2] for link in page.links if f"{place}/" in link]
    newest, _, *others = [one for one in sequences if one.isdigit()]
    assert newest == str(lost)
    first, second, third = others[:1:-1]
    letter = await person.get(f"{place}/{first}")
    for part in (
        "no such product",
        "Raised at",
        '"event_type": "order.placed"',
        INCOMING,
        "x-dlq-context",
    ):
        assert part in letter.text
    stranger = await person.get(f"{place}/{lost}")
    assert "does not tell its original subject" in stranger.text
    assert "Replay it" not in stranger.text

    done = await person.done(f"{place}/replay", {"sequence": first})
    assert f"Letter {first} is back" in done
    some = await person.done(f"{place}/replay", {"sequence": [second, third, str(lost)]})
    assert "2 letters are back" in some and "1 are not: dead letter" in some
    assert "No letter was chosen" in await person.done(f"{place}/replay")
    assert (await person.post(f"{place}/replay", {"sequence": "x"})).status == 422

    ask = await person.get(f"{place}/replay-all", event_type="order.placed")
    assert "2 events go back" in ask.text
    assert "2 letters are back" in await person.done(f"{place}/replay-all", ask.fields)
    await eventually(lambda: sorted(handler.seen) == [0, 1, 2, 3, 4])

    ask = await person.get((await person.get(f"{place}/{lost}")).link("discard"))
    assert "cannot be undone" in ask.text
    assert mock_nats.streams[STREAM].get(lost) is not None, "asking discards nothing"
    assert "1 letter is discarded" in await person.done(f"{place}/discard", ask.fields)
    assert mock_nats.streams[STREAM].get(lost) is None


@pytest.mark.usefixtures("bridge")
async def test_what_others_wrote_is_text_on_every_page(
    person: Person, deliver: Deliver, handler: Handler, outbox: Outbox, mock_nats: MockServer
) -> None:
    handler.error = Unrecoverable(EVIL)
    await deliver("order.placed", {"id": 1, "note": EVIL}, resource_id=EVIL)
    context = json.dumps({"error_message": EVIL, "event_id": EVIL, "error_class": EVIL})
    evil = mock_nats.put(DEAD, EVIL.encode(), {"x-dlq-reason": EVIL, "x-dlq-context": context})
    await outbox.add(EVIL, status="failed", resource=EVIL)
    letters = await person.get(f"{BASE}/dead-letters")
    pages = [
        letters,
        await person.get(letters.link("dead-letters/")),
        await person.get(f"{BASE}/dead-letters/{evil}"),
        await person.get(f"{BASE}/outbox", resource=f"order:{EVIL}"),
        await person.get(f"{BASE}/outbox/event", id=EVIL),
        await person.get(f"{BASE}/outbox/discard", id=EVIL),
        await person.get(f"{BASE}/dead-letters/{evil}/discard"),
        await person.get(f"{BASE}/inbox", resource=EVIL),
        await person.get((await person.get(f"{BASE}/inbox")).link("inbox/")),
        await person.get(f"{BASE}/dead-letters", reason=EVIL, event_type=EVIL),
        await person.get(f"{BASE}/dead-letters/replay-all", reason=EVIL),
        await person.get(f"{BASE}/outbox", status=EVIL),
        await person.get(f"{BASE}/{EVIL}"),
        await person.post(f"{BASE}/outbox/retry", {"id": EVIL * 2}),
    ]
    for page in pages:
        assert (page.tags.count("script"), "img" in page.tags) == (1, False)
    assert all(EVIL in page.text for page in pages[2:7])
