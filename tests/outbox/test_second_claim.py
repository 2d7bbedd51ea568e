"""Two claims of one relay at work at once: while there is much to send, and not else."""

from __future__ import annotations

import asyncio

import pytest

from jetstream_bridge.outbox.claims import Claim
from jetstream_bridge.outbox.relay import Relay
from jetstream_bridge.outbox.rounds import RelayRounds
from tests.bridge.support import config, database, enqueue, scalar
from tests.brokers import Broker
from tests.outbox.test_relay import SUBJECT, all_sent, assert_in_order, counts, many, relaying
from tests.outbox.test_relay import stored as messages
from tests.waiting import eventually

NUMBER = 3000
NOTES = "SELECT count(*) FROM jetstream_relay_notes"


class Claims:
    """How many claims publish at once."""

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        self.now = self.most = 0
        send = RelayRounds._send

        async def counted(rounds: RelayRounds, claim: Claim) -> object:
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                return await send(rounds, claim)
            finally:
                self.now -= 1

        patched.setattr(RelayRounds, "_send", counted)


@pytest.mark.parametrize("resources", [NUMBER, 50])
async def test_a_backlog_is_sent_by_two_claims_at_once_in_order(
    postgres_url: str, broker: Broker, monkeypatch: pytest.MonkeyPatch, resources: int
) -> None:
    claims = Claims(monkeypatch)
    async with database(postgres_url) as (engine, sessions):
        await enqueue(engine, many(NUMBER, resources=resources), subject=SUBJECT)
        async with relaying(config(broker.url, relay_batch_size=200), sessions, broker):
            await eventually(all_sent(engine, NUMBER), limit=30)
        assert claims.most == 2
        await assert_in_order(broker, NUMBER)
        assert await scalar(engine, NOTES) == 0, "both leave nothing that another relay waits for"


async def test_a_few_events_are_sent_by_one_claim(
    postgres_url: str, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = Claims(monkeypatch)
    async with database(postgres_url) as (engine, sessions):
        async with relaying(config(broker.url), sessions, broker):
            await enqueue(engine, many(200, resources=200), subject=SUBJECT)
            await eventually(all_sent(engine, 200), limit=30)
        assert claims.most == 1


async def test_a_relay_that_is_stopped_has_marked_all_that_both_claims_sent(
    postgres_url: str, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = Claims(monkeypatch)
    async with database(postgres_url) as (engine, sessions):
        await enqueue(engine, many(NUMBER, resources=NUMBER), subject=SUBJECT)
        async with relaying(config(broker.url, relay_batch_size=100), sessions, broker):
            await eventually(lambda: claims.most == 2, limit=30)
        marked = (await counts(engine)).get("sent", 0)
        assert marked >= 100
        assert len(await messages(broker)) == marked


async def test_a_second_claim_that_dies_ends_the_relay_which_begins_again(
    postgres_url: str,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    work, died = Relay._work_beside, asyncio.Event()

    async def dies_once(relay: Relay, second: RelayRounds) -> None:
        if not died.is_set():
            died.set()
            raise ZeroDivisionError("of the second claim")
        await work(relay, second)

    monkeypatch.setattr(Relay, "_work_beside", dies_once)
    async with database(postgres_url) as (engine, sessions):
        await enqueue(engine, many(NUMBER, resources=NUMBER), subject=SUBJECT)
        async with relaying(config(broker.url, relay_batch_size=200), sessions, broker):
            await eventually(all_sent(engine, NUMBER), limit=30)
        await assert_in_order(broker, NUMBER)
    assert died.is_set()
    assert "of the second claim" in caplog.text
