"""Dead letters: read without being consumed, put back once, thrown away."""

from __future__ import annotations

import base64
import json

import httpx
import pytest
from fastapi import FastAPI
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession
from structlog.testing import capture_logs

from jetstream_bridge import Bridge, Unrecoverable
from jetstream_bridge.inbox.tables import InboxEvent
from jetstream_bridge.testing import Deliver, MockServer, VirtualClock
from jetstream_bridge.testing.wire import header_values
from tests.waiting import eventually
from tests.web.conftest import DEAD, DURABLE, INCOMING, STREAM, Dead, Handler

pytestmark = pytest.mark.usefixtures("bridge")


def _letters(server: MockServer) -> list[int]:
    """The sequences of the letters that are in the stream now."""
    stream = server.streams[STREAM]
    return [sent.seq for sent in server.stored if sent.subject == DEAD and stream.get(sent.seq)]


def _put_letter(server: MockServer, body: bytes, **context: object) -> int:
    headers = {
        "Nats-Msg-Id": f"dlq:{STREAM}:999",
        "x-dead-letter": "true",
        "x-dlq-reason": "unrecoverable",
        "x-deliveries": "1",
        "x-dlq-context": json.dumps({"original_subject": INCOMING, "event_id": "e1"} | context),
    }
    return server.put(DEAD, body, headers)


async def _row(session: AsyncSession, event_id: str) -> InboxEvent:
    return (await session.exec(select(InboxEvent).where(InboxEvent.event_id == event_id))).one()


async def test_letters_are_listed_and_none_is_consumed(
    admin: httpx.AsyncClient, dead: Dead, mock_nats: MockServer
) -> None:
    for number in range(3):
        await dead.add(number)
    before = _letters(mock_nats)
    first = (await admin.get("/admin/dlq", params={"limit": 2})).json()
    second = (await admin.get("/admin/dlq", params={"limit": 2, "after": first["next"]})).json()

    assert [item["event"]["payload"]["id"] for item in first["items"]] == [0, 1]
    assert [item["event"]["payload"]["id"] for item in second["items"]] == [2]
    assert second["next"] is None
    assert _letters(mock_nats) == before
    assert len(before) == 3


async def test_a_letter_tells_why_and_where(
    admin: httpx.AsyncClient, dead: Dead, mock_nats: MockServer
) -> None:
    await dead.add(7, error="no such product")
    [sequence] = _letters(mock_nats)
    letter = (await admin.get(f"/admin/dlq/{sequence}")).json()

    assert letter["sequence"] == sequence
    assert letter["subject"] == INCOMING
    assert (letter["reason"], letter["error"]) == ("unrecoverable", "no such product")
    assert (letter["error_class"], letter["deliveries"]) == ("Unrecoverable", 1)
    assert letter["event_type"] == "order.placed"
    assert letter["consumer"] == DURABLE
    assert letter["event"]["payload"] == {"id": 7}
    assert letter["event_id"] == letter["event"]["event_id"]
    assert (letter["body"], letter["obstacle"]) == (None, None)
    assert letter["headers"]["x-dead-letter"] == "true"
    assert letter["time"].endswith("Z")


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"{broken", {"encoding": "utf-8", "data": "{broken"}),
        (b"[1]", {"encoding": "utf-8", "data": "[1]"}),
        (b"\xff\x00", {"encoding": "base64", "data": base64.b64encode(b"\xff\x00").decode()}),
        (b"", {"encoding": "utf-8", "data": ""}),
        (b'{"a":1e999}', {"encoding": "utf-8", "data": '{"a":1e999}'}),
        (b'{"a":"\\ud800"}', {"encoding": "utf-8", "data": '{"a":"\\ud800"}'}),
        (b'{"a":' * 150 + b"1" + b"}" * 150, None),
        (b"[" * 100_000, None),
    ],
)
async def test_what_is_no_event_is_shown_as_it_is(
    admin: httpx.AsyncClient, mock_nats: MockServer, body: bytes, shown: object
) -> None:
    sequence = _put_letter(mock_nats, body)
    letter = (await admin.get(f"/admin/dlq/{sequence}")).json()
    listed = (await admin.get("/admin/dlq")).json()["items"]

    expected = shown or {"encoding": "utf-8", "data": body.decode()}
    assert (letter["event"], letter["body"]) == (None, expected)
    assert (listed[0]["event"], listed[0]["body"]) == (None, expected)


async def test_a_letter_of_another_program_is_read_as_far_as_it_goes(
    admin: httpx.AsyncClient, mock_nats: MockServer
) -> None:
    sequence = mock_nats.put(DEAD, b"what is this", {"x-dlq-context": "{"})
    letter = (await admin.get(f"/admin/dlq/{sequence}")).json()

    assert (letter["reason"], letter["error"], letter["subject"]) == ("unknown", "", None)
    assert "original subject" in letter["obstacle"]


async def test_other_messages_of_the_stream_are_no_letters(
    admin: httpx.AsyncClient, mock_nats: MockServer
) -> None:
    sequence = mock_nats.put("test.orders.sync.billing", b"{}")

    for answer in (
        await admin.get(f"/admin/dlq/{sequence}"),
        await admin.post(f"/admin/dlq/{sequence}/replay"),
        await admin.delete(f"/admin/dlq/{sequence}"),
        await admin.get(f"/admin/dlq/{sequence + 1}"),
    ):
        assert answer.status_code == 404
    assert mock_nats.streams[STREAM].get(sequence) is not None


async def test_a_replayed_letter_is_handled_and_gone(
    admin: httpx.AsyncClient,
    dead: Dead,
    handler: Handler,
    mock_nats: MockServer,
    session: AsyncSession,
) -> None:
    await dead.add(7)
    [sequence] = _letters(mock_nats)
    original = next(sent for sent in mock_nats.stored if sent.subject == INCOMING)
    with capture_logs() as logs:
        answer = await admin.post(f"/admin/dlq/{sequence}/replay")
    await eventually(lambda: handler.seen == [7])

    assert answer.json()["replayed"] == 1
    assert _letters(mock_nats) == []
    back = [sent for sent in mock_nats.stored if sent.subject == INCOMING][-1]
    headers = header_values(back.headers)
    assert back.data == original.data
    assert headers.pop("Nats-Msg-Id").startswith(f"replay:{STREAM}:{sequence}:")
    key = json.loads(headers.pop("x-replay-key"))
    assert headers == header_values(original.headers)

    async def processed() -> bool:
        session.expire_all()
        row = await _row(session, key)
        return (row.status, row.last_error) == ("processed", None)

    await eventually(processed)
    [line] = [line for line in logs if line["event"] == "operator's action"]
    assert (line["action"], line["sequence"]) == ("dlq.replay", sequence)


@pytest.mark.parametrize("wait", ["0s", "130s"])
async def test_a_replay_whose_letter_was_not_removed_takes_effect_once(
    admin: httpx.AsyncClient,
    dead: Dead,
    handler: Handler,
    mock_nats: MockServer,
    clock: VirtualClock,
    wait: str,
) -> None:
    """Inside the stream's window the stream drops the second one, after it the inbox."""
    await dead.add(7)
    [sequence] = _letters(mock_nats)
    mock_nats.faults.ignore_api("$JS.API.STREAM.MSG.DELETE.>")
    lost = await admin.post(f"/admin/dlq/{sequence}/replay")
    await eventually(lambda: handler.seen == [7])
    assert lost.status_code == 503
    assert _letters(mock_nats) == [sequence], "the letter is there, and the event too"

    await clock.advance(wait)
    again = await admin.post(f"/admin/dlq/{sequence}/replay")
    await clock.advance("10s")

    assert again.status_code == 200
    assert handler.seen == [7]
    assert _letters(mock_nats) == []
    info = mock_nats.streams[STREAM].consumers[DURABLE].info()
    assert (info["num_pending"], info["num_ack_pending"]) == (0, 0)


async def test_a_letter_stays_when_the_stream_does_not_take_the_event(
    admin: httpx.AsyncClient, dead: Dead, mock_nats: MockServer
) -> None:
    await dead.add(7)
    [sequence] = _letters(mock_nats)
    mock_nats.fill(STREAM)
    unavailable = await admin.post(f"/admin/dlq/{sequence}/replay")
    mock_nats.fill(STREAM, full=False)
    mock_nats.faults.refuse_publish(10054, INCOMING)
    refused = await admin.post(f"/admin/dlq/{sequence}/replay")

    assert (unavailable.status_code, refused.status_code) == (503, 409)
    assert "was not replayed" in unavailable.json()["detail"]
    assert _letters(mock_nats) == [sequence]


async def test_an_event_that_fails_again_is_a_new_letter(
    admin: httpx.AsyncClient, dead: Dead, handler: Handler, mock_nats: MockServer
) -> None:
    await dead.add(7)
    [first] = _letters(mock_nats)
    handler.error = Unrecoverable("still not")
    assert (await admin.post(f"/admin/dlq/{first}/replay")).status_code == 200
    await eventually(lambda: _letters(mock_nats) not in ([], [first]))

    [second] = _letters(mock_nats)
    letter = (await admin.get(f"/admin/dlq/{second}")).json()
    assert letter["error"] == "still not"
    assert letter["event_id"] == letter["event"]["event_id"]
    handler.error = None
    assert (await admin.post(f"/admin/dlq/{second}/replay")).status_code == 200
    await eventually(lambda: handler.seen == [7])


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ("test.billing.sync.shipping", "does not read"),
        ("test.orders.sync.billing", "does not read"),
        ("test.>", "cannot go back"),
        ("", "does not tell"),
        (None, "does not tell"),
    ],
)
async def test_a_letter_goes_back_only_where_this_service_reads(
    admin: httpx.AsyncClient, mock_nats: MockServer, subject: str | None, said: str
) -> None:
    sequence = _put_letter(mock_nats, b"{}", original_subject=subject)
    stored = len(mock_nats.stored)
    answer = await admin.post(f"/admin/dlq/{sequence}/replay")

    assert answer.status_code == 409
    assert said in answer.json()["detail"]
    assert len(mock_nats.stored) == stored


@pytest.mark.parametrize(
    ("headers", "context", "key"),
    [
        ({"nats-msg-id": "gem-1"}, {"event_id": "random"}, "gem-1"),
        ({}, {"event_id": "random"}, "in-envelope"),
        ({"Nats-Msg-Id": "dlq:s:1"}, {"event_id": "ours"}, "ours"),
        ({"Nats-Msg-Id": "dlq:s:1"}, {"event_id": "öurs"}, "öurs"),
        ({"Nats-Msg-Id": "dlq:s:1"}, {}, "in-envelope"),
    ],
)
async def test_the_replayed_event_has_the_key_of_the_original(
    admin: httpx.AsyncClient,
    bridge: Bridge,
    handler: Handler,
    mock_nats: MockServer,
    session: AsyncSession,
    headers: dict[str, str],
    context: dict[str, str],
    key: str,
) -> None:
    told = json.dumps({"original_subject": INCOMING, **context})
    body = {"event_id": "in-envelope", "event_type": "order.placed", "payload": {"id": 1}}
    sequence = mock_nats.put(DEAD, json.dumps(body).encode(), {**headers, "x-dlq-context": told})
    assert (await admin.post(f"/admin/dlq/{sequence}/replay")).status_code == 200
    await eventually(lambda: handler.seen == [1])

    async def known() -> bool:
        found = (await session.exec(select(InboxEvent.event_id))).all()
        return list(found) == [key]

    await eventually(known)


async def test_many_letters_are_replayed_by_reason_and_type(
    admin: httpx.AsyncClient, dead: Dead, deliver: Deliver, handler: Handler, mock_nats: MockServer
) -> None:
    for number in range(3):
        await dead.add(number)
    await deliver(b"{broken")
    wanted = {"limit": 10, "reason": "unrecoverable"}

    dry = await admin.post("/admin/dlq/replay", json=wanted | {"dry_run": True})
    kind = {"letters": 3, "reason": "unrecoverable", "error_class": "Unrecoverable"}
    assert dry.json() == {
        "replayed": 3,
        "skipped": 0,
        "more": False,
        "dry_run": True,
        "since": mock_nats.streams[STREAM].first_and_last()[1],
        "kinds": [kind | {"event_type": "order.placed"}],
    }
    assert len(_letters(mock_nats)) == 4
    assert handler.seen == []

    other = await admin.post("/admin/dlq/replay", json=wanted | {"event_type": "order.lost"})
    assert other.json()["replayed"] == 0
    typed = await admin.post(
        "/admin/dlq/replay", json={"limit": 2, "event_type": "order.placed", "rate": 1}
    )
    assert (typed.json()["replayed"], typed.json()["more"]) == (2, True)
    rest = await admin.post("/admin/dlq/replay", json=wanted)
    assert (rest.json()["replayed"], rest.json()["more"]) == (1, False)
    await eventually(lambda: sorted(handler.seen) == [0, 1, 2])
    assert len(_letters(mock_nats)) == 1


async def test_letters_that_come_back_are_left_for_the_next_time(
    admin: httpx.AsyncClient, dead: Dead, handler: Handler, mock_nats: MockServer
) -> None:
    for number in range(3):
        await dead.add(number)
    handler.error = Unrecoverable("still not")
    done = await admin.post("/admin/dlq/replay", json={"limit": 100, "rate": 2})
    await eventually(lambda: len(_letters(mock_nats)) == 3)

    assert done.json()["replayed"] == 3


async def test_what_cannot_go_back_is_skipped(
    admin: httpx.AsyncClient, dead: Dead, mock_nats: MockServer
) -> None:
    _put_letter(mock_nats, b"{}", original_subject="")
    await dead.add(1)
    done = (await admin.post("/admin/dlq/replay", json={"limit": 10})).json()

    assert (done["replayed"], done["skipped"]) == (1, 1)


async def test_a_replay_of_many_ends_in_time(
    admin: httpx.AsyncClient, dead: Dead, mock_nats: MockServer
) -> None:
    for number in range(3):
        await dead.add(number)
    began = mock_nats.now()
    done = (await admin.post("/admin/dlq/replay", json={"limit": 10, "rate": 0.08})).json()

    assert mock_nats.now() - began < 20
    assert (done["replayed"], done["more"]) == (2, True)
    assert len(_letters(mock_nats)) == 1


@pytest.mark.parametrize(
    "body", [{}, {"limit": 0}, {"limit": 1, "rate": 0}, {"limit": 1, "resaon": "x"}, [1]]
)
async def test_a_bad_selection_is_refused(admin: httpx.AsyncClient, body: object) -> None:
    answer = await admin.post("/admin/dlq/replay", json=body)

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


async def test_letters_are_found_by_reason_and_type(
    admin: httpx.AsyncClient, dead: Dead, deliver: Deliver
) -> None:
    await dead.add(1)
    await deliver(b"{broken")

    async def found(**query: str) -> list[str]:
        page = (await admin.get("/admin/dlq", params=query)).json()
        return [item["reason"] for item in page["items"]]

    assert await found(reason="malformed_json") == ["malformed_json"]
    assert await found(event_type="order.placed") == ["unrecoverable"]
    assert await found(event_type="placed") == []


async def test_a_page_ends_when_it_has_become_large(
    admin: httpx.AsyncClient, mock_nats: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jetstream_bridge.operations.dead_letter_queue.PAGE_BYTES", 10)
    for _ in range(2):
        mock_nats.put(DEAD, b"y" * 20)
    first = (await admin.get("/admin/dlq")).json()

    assert len(first["items"]) == 1
    assert first["next"] is not None


async def test_a_discarded_letter_is_gone(
    admin: httpx.AsyncClient, dead: Dead, mock_nats: MockServer
) -> None:
    await dead.add(1)
    [sequence] = _letters(mock_nats)

    assert (await admin.delete(f"/admin/dlq/{sequence}")).status_code == 204
    assert _letters(mock_nats) == []
    assert (await admin.delete(f"/admin/dlq/{sequence}")).status_code == 404


async def test_without_nats_the_answer_says_so(
    admin: httpx.AsyncClient, app: FastAPI, mock_nats: MockServer
) -> None:
    mock_nats.stop()
    at_once = await admin.get("/admin/dlq")  # sent before the client knows of the loss
    assert at_once.status_code == 503
    assert "The connection was lost" in at_once.json()["detail"]
    await eventually(lambda: not app.state.bridge.connection.connected)

    for answer in (
        await admin.get("/admin/dlq"),
        await admin.get("/admin/dlq/1"),
        await admin.post("/admin/dlq/replay", json={"limit": 1}),
        await admin.get("/admin/topology"),
    ):
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert "Not connected to NATS" in answer.json()["detail"]


async def test_a_server_that_is_silent_is_not_waited_for_long(
    admin: httpx.AsyncClient, mock_nats: MockServer, clock: VirtualClock
) -> None:
    mock_nats.faults.ignore_api(times=1000)
    began = mock_nats.now()

    for path in ("/admin/dlq", "/admin/dlq/1", "/admin/topology"):
        assert (await admin.get(path)).status_code == 503
    assert mock_nats.now() - began < 3 * 2.5


async def test_a_stream_that_lets_nothing_be_deleted_keeps_its_letters_and_says_so(
    admin: httpx.AsyncClient, dead: Dead, mock_nats: MockServer
) -> None:
    await dead.add(1)
    mock_nats.streams[STREAM].config["deny_delete"] = True
    [sequence] = _letters(mock_nats)
    answer = await admin.delete(f"/admin/dlq/{sequence}")

    assert answer.status_code == 503
    assert "not permitted" in answer.json()["detail"]
    assert _letters(mock_nats) == [sequence]


async def test_without_the_stream_a_replay_of_many_says_so(
    admin: httpx.AsyncClient, bridge: Bridge, mock_nats: MockServer
) -> None:
    await bridge.stop()
    mock_nats.drop_stream(STREAM)
    answer = await admin.post("/admin/dlq/replay", json={"limit": 1})

    assert answer.status_code == 503
    assert f"stream {STREAM} does not exist" in answer.json()["detail"].lower()
