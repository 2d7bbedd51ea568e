"""An event keeps its last failed tries, each with its error: in both tables, on both databases."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge.core.tries import KEPT, MAX_ERROR, Try, entry, read_tries
from jetstream_bridge.inbox.received import Received
from jetstream_bridge.inbox.run_counts import RunCounts
from jetstream_bridge.inbox.store import Inbox
from jetstream_bridge.operations.listing import InboxListing, OutboxListing
from jetstream_bridge.outbox.settlement import Failure, Retry, Settlement
from tests.bridge.support import database, envelope
from tests.outbox.test_lanes import fill, ids, run
from tests.outbox.test_outbox_maintenance import settle

ODD = ("'[1'", "'{\"a\": 1}'", "'[1, {\"at\": 2}]'")


async def _outbox_tries(engine: AsyncEngine) -> list[Try]:
    row = await OutboxListing(engine).get("e0")
    assert row is not None
    return row.tries


async def test_the_outbox_keeps_the_last_tries(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill(engine, 1, resources=1)
        key = (await ids(engine))["e0"]
        assert await _outbox_tries(engine) == []
        for number in range(KEPT + 2):
            await settle(engine, Settlement(retries=[Retry(key, number, f"no {number}", 60.0)]))
        await settle(engine, Settlement(failures=[Failure(key, 99, "no more \0 \ud800")]))
        tries = await _outbox_tries(engine)
        assert len(tries) == KEPT
        assert [one.error for one in tries[:2]] == ["no 3", "no 4"]
        assert tries[-1].error == "no more \\x00 \\ud800"
        assert tries[-1].at.startswith("20") and tries[-1].delivery is None


async def test_the_inbox_keeps_the_last_tries(database_url: str) -> None:
    inbox = Inbox("c")
    runs = RunCounts("c", inbox)
    async with database(database_url) as (engine, sessions):
        for number in range(1, KEPT + 3):
            received = Received(
                "e", "a.b", envelope("e").encode(), {}, "s", 7, 7, deliveries=number
            )
            async with sessions() as session:
                failures = await runs.failed(session, received, f"no {number}", alone=False)
                await session.commit()
            assert failures == number
        row = await InboxListing(engine).get(1)
        assert row is not None
        assert [one.delivery for one in row.tries] == list(range(3, KEPT + 3))
        assert row.tries[0].error == "no 3"


@pytest.mark.parametrize("odd", ODD)
async def test_what_another_program_wrote_there_hinders_nobody(database_url: str, odd: str) -> None:
    async with database(database_url) as (engine, _):
        if engine.dialect.name == "postgresql" and odd == ODD[0]:
            return  # it takes JSON only
        await fill(engine, 1, resources=1)
        await run(engine, f"UPDATE jetstream_outbox_events SET tries = {odd}".replace(":", "\\:"))
        key = (await ids(engine))["e0"]
        await settle(engine, Settlement(retries=[Retry(key, 1, "no", 60.0)]))
        assert (await _outbox_tries(engine))[-1].error == "no"


async def test_an_event_that_does_not_fail_keeps_nothing(database_url: str) -> None:
    async with database(database_url) as (engine, _):
        await fill(engine, 1, resources=1)
        await settle(engine, Settlement(sent=[(await ids(engine))["e0"]]))
        async with engine.connect() as connection:
            found = await connection.execute(text("SELECT tries FROM jetstream_outbox_events"))
            assert found.scalar_one() is None


def test_a_try_is_bounded_and_read_leniently() -> None:
    told = json.loads(entry("x" * 5000 + "; caused by KeyError: 'a'", delivery=3))
    assert len(told["error"]) <= MAX_ERROR + 40
    assert told["error"].endswith("KeyError: 'a'") and told["delivery"] == 3
    assert read_tries(None) == read_tries("{") == read_tries("17") == []
    assert read_tries('[{"error": 1, "delivery": "x"}, 2]') == [Try("", "1", None)]
