"""Dead letters from the newest on, in a stream that others fill too: the mock and a real server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable

import pytest
from nats.js.api import RetentionPolicy, StreamConfig

from jetstream_bridge import Bridge
from jetstream_bridge.operations import letter_reader
from jetstream_bridge.operations.dead_letter_queue import BulkOperation, LetterFilter
from tests.bridge.support import config, database, envelope
from tests.brokers import Broker
from tests.waiting import eventually

STREAM = "test-jetstream-bridge-stream"
DEAD = "test.orders.sync.dlq"
OTHER = "test.audit.sync.other"


class Filled:
    """A stream with letters of ours among the messages of others."""

    def __init__(self, bridge: Bridge, broker: Broker) -> None:
        self.bridge = bridge
        self._broker = broker

    async def put(self, *layout: str) -> list[str]:
        """Store `.` of others and letters of ours, whose event ids are returned, newest first."""
        client = await self._broker.connect()
        ids: list[str] = []
        for kind in layout:
            if kind == ".":
                await client.jetstream().publish(OTHER, b"{}")
                continue
            event_id = f"e{len(ids)}"
            context = {"event_id": event_id, "error_class": kind, "error_message": "no"}
            headers = {"x-dlq-reason": "unrecoverable", "x-dlq-context": json.dumps(context)}
            body = envelope(event_id, resource=event_id).encode()
            await client.jetstream().publish(DEAD, body, headers=headers)
            ids.append(event_id)
        await client.close()
        return ids[::-1]

    async def listed(self, *, limit: int, letter_filter: LetterFilter | None = None) -> list[str]:
        """All event ids as the pages of a list show them, newest first."""
        found: list[str] = []
        page = await self.bridge.letters.page(
            limit=limit, letter_filter=letter_filter, newest_first=True
        )
        while True:
            found += [letter.event_id for letter in page.items]
            if page.next is None:
                return found
            page = await self.bridge.letters.page(
                limit=limit, letter_filter=letter_filter, newest_first=True, after=page.next
            )


@pytest.fixture
async def filled(broker: Broker, sqlite_url: str) -> AsyncIterator[Filled]:
    client = await broker.connect()
    subjects = [DEAD, OTHER, "test.orders.sync.billing"]
    await client.jetstream().add_stream(
        StreamConfig(STREAM, subjects=subjects, retention=RetentionPolicy.LIMITS)
    )
    await client.close()
    async with database(sqlite_url) as (_, sessions):
        bridge = Bridge(config(broker.url), sessions, make_client=broker.make_client)
        async with bridge:
            await eventually(lambda: bridge.connection.connected)
            yield Filled(bridge, broker)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones, so that a short stream has all there is to them."""
    monkeypatch.setattr(letter_reader, "SPAN", 4)
    monkeypatch.setattr(letter_reader, "FEW", 2)


LAYOUTS: dict[str, Callable[[], list[str]]] = {
    "none": lambda: ["."] * 3,
    "one, far back": lambda: ["A", *"." * 40],
    "dense": lambda: ["A"] * 20,
    "rare": lambda: [*"." * 9, "A"] * 5,
    "dense behind a desert": lambda: ["A"] * 20 + ["."] * 60 + ["A"] * 2,
}


@pytest.mark.usefixtures("spans")
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_letters_come_newest_first_however_they_lie(filled: Filled, layout: str) -> None:
    expected = await filled.put(*LAYOUTS[layout]())
    assert await filled.listed(limit=3) == expected
    assert await filled.listed(limit=500) == expected


async def test_large_letters_are_read_one_by_one(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letter_reader, "SPAN_BYTES", 10)
    expected = await filled.put("A", "A", ".", "A")
    assert await filled.listed(limit=2) == expected


async def test_letters_are_found_and_counted_by_what_they_tell(filled: Filled) -> None:
    await filled.put("KeyError", ".", "ValueError", "KeyError")
    assert await filled.listed(limit=1, letter_filter=LetterFilter(error_class="KeyError")) == [
        "e2",
        "e0",
    ]
    assert await filled.listed(limit=9, letter_filter=LetterFilter(resource="order:e1")) == ["e1"]
    assert await filled.listed(limit=9, letter_filter=LetterFilter(event_id="e2")) == ["e2"]
    breakdown = await filled.bridge.letters.breakdown(LetterFilter(error_class="KeyError"))
    assert (breakdown.total, breakdown.read, breakdown.matching, breakdown.whole) == (3, 3, 2, True)
    assert {kind.error_class: number for kind, number in breakdown.every.items()} == {
        "KeyError": 2,
        "ValueError": 1,
    }


async def test_what_comes_after_the_question_is_not_discarded(filled: Filled) -> None:
    await filled.put("KeyError", "ValueError")
    asked = await filled.bridge.letters.discard_many(BulkOperation(limit=9, dry_run=True))
    await filled.put("KeyError")
    done = await filled.bridge.letters.discard_many(BulkOperation(limit=9, until=asked.last))
    assert (asked.count, done.count, await filled.bridge.letters.count()) == (2, 2, 1)
