"""Letters and rows that strangers made odd: one's fault stays its own, on every page and list."""

from __future__ import annotations

import json
import re

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from jetstream_bridge.cli import inbox as inbox_commands
from jetstream_bridge.cli.dlq_texts import letter_row
from jetstream_bridge.cli.listing import whole
from jetstream_bridge.service.database import Database
from jetstream_bridge.testing import MockServer
from jetstream_bridge.web.admin.dlq import DeadLetterView, WholeDeadLetterView
from jetstream_bridge.web.admin.inbox import InboxItem
from tests.bridge.hostile import hostile
from tests.web.conftest import DEAD, INCOMING
from tests.web.console import BASE, Person

NUMBER = 12

# What broke pages, or might: half a pair, bounds of numbers, contexts of other shapes.
CONTEXTS = (
    "",
    "{",
    "null",
    "[]",
    '{"event_id":"\\ud83d","reason":"\\udc00","error_message":"\\u0000\\ud83d"}',
    '{"event_id":["x"],"deliveries":1e999,"sequence":{"stream":{}}}',
    '{"deliveries":-1,"sequence":999999999999999999999999,"original_subject":"a b\\u0000"}',
    json.dumps({"original_subject": INCOMING, "published_at": "9999-12-31T23:59:59-23:59"}),
    '{"error_message":"' + "x" * 3000 + '","raised_at":5}',
    "[" * 3000,
)
BODIES = (
    b'{"event_type":"a.b","payload":"\\ud83d"}',
    b'{"event_type":"\\ud83d","resource_id":"\\udc00","payload":{"\\ud83d":1}}',
    b'{"event_type":"a.b","payload":1e999}',
    b'{"event_type":"a.b","payload":' + b"9" * 4300 + b"}",
    b'{"event_type":"a.b","payload":' + b"[" * 190 + b"]" * 190 + b"}",
    b'{"event_type":"a.b","payload":"\\u0000","occurred_at":"0001-01-01T00:00:00+00:00"}',
    b'{"event_type":"a.b","schema_version":' + b"9" * 400 + b',"payload":{}}',
    b"\xff\xfe",
    b"",
)


@pytest.fixture
async def letters(person: Person, mock_nats: MockServer) -> list[int]:
    """Sequences of letters in the stream, each odd in its own way."""
    found = []
    for number, body in enumerate((*BODIES, *(one.body for one in hostile(7, NUMBER)))):
        headers = {
            "x-dlq-context": CONTEXTS[number % len(CONTEXTS)],
            "x-dlq-reason": "odd\ufffd" if number % 2 else "",
            "x-deliveries": "9" * (number % 30),
            "a/b": "\ufffd\0",
        }
        found.append(mock_nats.put(DEAD, body, headers))
    for number, one in enumerate(hostile(8, 12)):
        if b"Nats-Msg-Id" not in one.block:
            mock_nats.publish(DEAD, "", one.block, one.body or str(number).encode())
            found.append(mock_nats.stored[-1].seq)
    return found


async def test_every_letter_is_listed_and_shown(
    admin: httpx.AsyncClient, letters: list[int]
) -> None:
    listed: list[int] = []
    after: str | None = None
    while True:
        answer = await admin.get(
            "/admin/dlq", params={"limit": 17, **({"after": after} if after else {})}
        )
        assert answer.status_code == 200, answer.text
        listed += [item["sequence"] for item in answer.json()["items"]]
        for item in answer.json()["items"]:
            letter_row(DeadLetterView(**item))
        after = answer.json()["next"]
        if after is None:
            break
    assert listed == letters
    for sequence in letters:
        answer = await admin.get(f"/admin/dlq/{sequence}")
        assert answer.status_code == 200, answer.text
        whole(WholeDeadLetterView(**answer.json())).encode()


async def test_every_letter_has_its_place_on_the_consoles_pages(
    person: Person, letters: list[int]
) -> None:
    seen: set[int] = set()
    path = f"{BASE}/dead-letters"
    while True:
        page = await person.get(path)
        assert page.status == 200
        seen |= {int(n) for link in page.links for n in re.findall(r"dead-letters/(\d+)$", link)}
        following = [link for link in page.links if "after=" in link]
        if not following:
            break
        path = following[0]
    assert seen == set(letters)
    for sequence in letters:
        assert (await person.get(f"{BASE}/dead-letters/{sequence}")).status == 200
        assert (await person.get(f"{BASE}/dead-letters/{sequence}/discard")).status == 200


async def test_what_cannot_go_back_is_skipped_and_the_others_go(
    admin: httpx.AsyncClient, letters: list[int]
) -> None:
    answer = await admin.post("/admin/dlq/replay", json={"limit": 1000, "dry_run": True})
    assert answer.status_code == 200
    counted = answer.json()
    assert counted["replayed"] + counted["skipped"] == len(letters)
    assert counted["replayed"] > 0
    answer = await admin.post("/admin/dlq/replay", json={"limit": 1000})
    assert answer.json()["replayed"] == counted["replayed"]


async def test_odd_rows_of_the_inbox_are_listed_and_shown(
    admin: httpx.AsyncClient, person: Person, database: Database
) -> None:
    payloads = [body.decode(errors="replace") for body in BODIES if body]
    async with database.engine.begin() as connection:
        for number, payload in enumerate(payloads):
            await connection.execute(
                text(
                    "INSERT INTO jetstream_inbox_events (consumer, event_id, subject, payload,"
                    " headers, body, status, last_error, deliveries) VALUES ('c', :id, :subject,"
                    " :payload, :headers, :body, 'dead_lettered', :error, 1)"
                ),
                {
                    "id": f"odd-{number}\u202e",
                    "subject": INCOMING,
                    "payload": payload,
                    "headers": '{"a/b":"\\ud83d\\u0000"}' if number % 2 else "{}",
                    "body": BODIES[number] if number % 3 else None,
                    "error": "a\\x00b\\ud83d",
                },
            )
    listed = (await admin.get("/admin/inbox", params={"limit": 100})).json()["items"]
    assert len(listed) == len(payloads)
    for item in listed:
        inbox_commands._row(InboxItem(**item))
        shown = await admin.get(f"/admin/inbox/{item['id']}")
        assert shown.status_code == 200, shown.text
        assert (await person.get(f"{BASE}/inbox/{item['id']}")).status == 200
        replayed = await admin.post(f"/admin/inbox/{item['id']}/replay")
        assert replayed.status_code in (200, 409), replayed.text
    assert (await person.get(f"{BASE}/inbox")).status == 200
    assert (await admin.get("/admin/inbox", params={"resource": "a:\ufffd"})).status_code == 200


async def test_odd_rows_of_the_outbox_are_listed_and_shown(
    admin: httpx.AsyncClient, person: Person, app: FastAPI, database: Database
) -> None:
    await app.state.bridge.outbox_pause.pause()
    payloads = [body.decode() for body in BODIES if body.startswith(b"{")]
    headers = ("{}", '{"a":"\\ud83d"}', "[]", '"x"', "{", '{"a":{"b":[1e999]}}', "null")
    async with database.engine.begin() as connection:
        # Rows of an older version may be what none can be today.
        triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        for (name,) in (await connection.execute(text(triggers))).all():
            await connection.execute(text(f"DROP TRIGGER {name}"))
        await connection.execute(text("PRAGMA ignore_check_constraints = ON"))
        for number, payload in enumerate(payloads):
            await connection.execute(
                text(
                    "INSERT INTO jetstream_outbox_events (event_id, subject, payload, headers,"
                    " status, last_error) VALUES (:id, :subject, :payload, :headers, 'failed', :e)"
                ),
                {
                    "id": f"odd-{number}",
                    "subject": INCOMING,
                    "payload": payload,
                    "headers": headers[number % len(headers)],
                    "e": "\ufffd\u202e",
                },
            )
        await connection.execute(text("PRAGMA ignore_check_constraints = OFF"))
    listed = (await admin.get("/admin/outbox", params={"limit": 100})).json()["items"]
    assert len(listed) == len(payloads)
    for item in listed:
        shown = await admin.get(f"/admin/outbox/{item['event_id']}")
        assert shown.status_code == 200, shown.text
        page = await person.get(f"{BASE}/outbox/event", id=item["event_id"])
        assert page.status == 200
    assert (await person.get(f"{BASE}/outbox")).status == 200
