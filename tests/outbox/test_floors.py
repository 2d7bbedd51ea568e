"""No relay misses a row below its floor, whoever commits late, retries, releases or inserts it."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncTransaction

from jetstream_bridge.nats.outgoing import Outcome
from jetstream_bridge.outbox.chains import LEAST_READY, chains_of, keep_pace
from jetstream_bridge.outbox.claims import Lanes, lanes_of
from jetstream_bridge.outbox.floors import LAG, Floors
from jetstream_bridge.outbox.maintenance import OutboxMaintenance
from jetstream_bridge.outbox.relay_notes import RelayNotes
from jetstream_bridge.outbox.settlement import Failure, Retry, Settlement
from jetstream_bridge.outbox.strays import Strays
from tests.bridge.old_snapshots import generate, look, send_all
from tests.bridge.support import database, envelope, rows, scalar
from tests.outbox.test_lanes import MUCH, claimed, ids, run

_INSERT = text(
    "INSERT INTO jetstream_outbox_events (event_id, subject, payload) "
    "VALUES (:event_id, 'a.b', CAST(:payload AS json))"
)


def relay_on(engine: AsyncEngine) -> Lanes:
    return lanes_of(engine, transaction_limit=30)


async def insert(connection: AsyncConnection, event_id: str, resource: str) -> None:
    payload = envelope(event_id, resource=resource)
    await connection.execute(_INSERT, {"event_id": event_id, "payload": payload})


async def add(engine: AsyncEngine, event_id: str, resource: str) -> None:
    async with engine.begin() as connection:
        await insert(connection, event_id, resource)


@asynccontextmanager
async def writing(
    engine: AsyncEngine, event_id: str, resource: str
) -> AsyncIterator[AsyncTransaction]:
    """A transaction that has drawn an id, and has not committed."""
    async with engine.connect() as connection:
        await insert(connection, event_id, resource)
        transaction = connection.get_transaction()
        assert transaction is not None
        yield transaction


async def climb(engine: AsyncEngine, lanes: Lanes) -> None:
    """Let the floors of a relay rise as far as they may."""
    await generate(engine, 3 * LAG, prefix=f"climb{random.random()}")
    await send_all(lanes, batch=LAG)
    await look(lanes, times=3)


async def found(lanes: Lanes) -> list[str]:
    """What a relay would take now, in the order in which it would send it."""
    async with lanes.claim(1000, MUCH) as claim:
        return [row.event_id for row in sorted(claim.rows, key=lambda row: row.id)]


def highest(lanes: Lanes) -> int:
    return lanes._floors.highest  # type: ignore[attr-defined,no-any-return]


async def test_floors_rise_to_what_was_sent(postgres_url: str) -> None:
    async with database(postgres_url) as (engine, _):
        lanes = relay_on(engine)
        await climb(engine, lanes)
        newest = await scalar(engine, "SELECT max(id) FROM jetstream_outbox_events")
        assert set(lanes._floors.of(range(16))) == {newest}  # type: ignore[attr-defined]


async def test_an_event_that_is_committed_late_goes_with_the_next_claim(postgres_url: str) -> None:
    async with database(postgres_url) as (engine, _):
        lanes = relay_on(engine)
        await climb(engine, lanes)
        async with writing(engine, "late", "r") as late:
            await climb(engine, lanes)
            await late.commit()
        await add(engine, "later", "r")
        assert await found(lanes) == ["late", "later"]


async def test_floors_rise_again_when_a_late_transaction_has_ended(postgres_url: str) -> None:
    async with database(postgres_url) as (engine, _):
        lanes = relay_on(engine)
        async with writing(engine, "late", "r") as late:
            await climb(engine, lanes)
            stuck = highest(lanes)
            await late.rollback()
        await climb(engine, lanes)
        assert highest(lanes) > stuck + LAG


async def test_floors_rise_beside_transactions_that_write_elsewhere(postgres_url: str) -> None:
    """Such a one holds back the oldest transaction id that is running, and concerns nobody here."""
    async with database(postgres_url) as (engine, _):
        lanes = relay_on(engine)
        async with engine.begin() as other:
            await other.execute(text("CREATE TABLE elsewhere AS SELECT 1 AS one"))
            await climb(engine, lanes)
            newest = await scalar(engine, "SELECT max(id) FROM jetstream_outbox_events")
            assert highest(lanes) == newest


def test_a_prepared_transaction_is_not_known_by_its_name() -> None:
    floors = Floors()
    floors.note(10, ["3/7"])
    floors.note(500, ["-1/841"])
    assert floors._final == 0
    floors.note(500, ["4/2"])
    assert floors._final == 10


async def test_followers_that_another_relay_lets_go_are_found(postgres_url: str) -> None:
    async with database(postgres_url) as (engine, _):
        one, other = relay_on(engine), relay_on(engine)
        for name in ("head", "follower"):
            await add(engine, name, "r")
        known = await ids(engine)
        async with one.claim(10, MUCH) as claim:
            await claim.settle(
                Settlement(retries=[Retry(known["head"], 1, "no", 0.0)], held=[known["follower"]])
            )
        # The other relay's floors rise above both, while the head waits for its next try.
        await run(engine, "UPDATE jetstream_outbox_events SET retry_at = '2100-01-01' WHERE held")
        await run(
            engine, "UPDATE jetstream_outbox_events SET retry_at = NULL WHERE event_id = 'follower'"
        )
        await climb(engine, other)
        assert highest(other) > known["follower"]
        await run(
            engine, "UPDATE jetstream_outbox_events SET retry_at = now() WHERE event_id = 'head'"
        )
        async with one.claim(10, MUCH) as claim:
            assert claimed(claim) == ["head"]
            settlement = Settlement(sent=[known["head"]])
            settlement.release(claim.rows[0], 8)
            await claim.settle(settlement)
        await add(engine, "later", "r")
        assert await found(other) == ["follower", "later"]


async def test_two_reopenings_that_a_relay_has_missed_let_it_look_from_the_beginning(
    postgres_url: str,
) -> None:
    async with database(postgres_url) as (engine, _):
        lanes = relay_on(engine)
        await add(engine, "below", "r")
        await run(engine, "UPDATE jetstream_outbox_events SET held = true")
        await climb(engine, lanes)
        await run(engine, "UPDATE jetstream_outbox_events SET held = false WHERE held")
        assert await found(lanes) == []
        await run(engine, "UPDATE jetstream_outbox_lanes SET reopens = reopens + 2, reopened = 900")
        assert await found(lanes) == ["below"]


async def test_what_an_operator_retries_or_frees_is_found(postgres_url: str) -> None:
    async with database(postgres_url) as (engine, _):
        lanes, maintenance = relay_on(engine), OutboxMaintenance(engine)
        for name, resource in [("failed", "r"), ("f2", "s"), ("head", "t"), ("follower", "t")]:
            await add(engine, name, resource)
        known = await ids(engine)
        async with lanes.claim(100, MUCH) as claim:
            await claim.settle(
                Settlement(
                    failures=[Failure(known[name], 10, "no") for name in ("failed", "f2")],
                    retries=[Retry(known["head"], 1, "no", 3600.0)],
                    held=[known["follower"]],
                )
            )
        await climb(engine, lanes)
        await maintenance.retry("failed")
        assert await found(lanes) == ["failed"]
        await maintenance.retry_failed()
        assert await found(lanes) == ["failed", "f2"]
        await maintenance.discard("head")
        assert await found(lanes) == ["failed", "f2", "follower"]


async def test_followers_of_what_is_marked_later_are_found(postgres_url: str) -> None:
    """A relay marks what it has sent when its database is back, and looks through the stream."""
    async with database(postgres_url) as (engine, _):
        lanes = relay_on(engine)
        for name in ("head", "follower"):
            await add(engine, name, "r")
        known = await ids(engine)
        async with lanes.claim(100, MUCH) as claim:
            waits = Settlement(retries=[Retry(known["head"], 1, "no", 3600.0)])
            waits.held.append(known["follower"])
            await claim.settle(waits)
        await climb(engine, lanes)
        await RelayNotes(engine).settle([known["head"]])
        assert await found(lanes) == ["follower"]


async def test_an_event_with_an_id_of_its_own_making_is_sent_a_little_later(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jetstream_bridge.outbox.strays.STRAYS_EVERY", 0.0)
    async with database(postgres_url) as (engine, _):
        lanes = relay_on(engine)
        await run(engine, "ALTER SEQUENCE jetstream_outbox_events_id_seq RESTART 100000")
        await climb(engine, lanes)
        await run(
            engine,
            "INSERT INTO jetstream_outbox_events (id, event_id, subject, payload) "
            "VALUES (70000, 'stray', 'a.b', '{}')",
        )
        assert await found(lanes) == []
        strays = [await lanes.take_strays() for _ in range(10)]
        assert sum(strays) == 1
        assert await found(lanes) == ["stray"]


async def test_a_range_without_strays_is_as_narrow_as_it_takes(postgres_url: str) -> None:
    async with database(postgres_url) as (engine, _):
        strays = Strays(engine, Floors())
        strays._width = 16_000
        strays._go_on(1, took=1.0)
        assert strays._width == 8_000
        strays._go_on(1, took=0.001)
        assert strays._width == 32_000


@dataclass
class _World:
    """Writers, relays and an operator that do something by chance, and what was sent."""

    engine: AsyncEngine
    chance: random.Random
    relays: list[Lanes]
    # Of each resource, in the order of their commits; one transaction has a resource at a time, as
    # it has its row's lock.
    committed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    sent: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    given_up: set[str] = field(default_factory=set)  # at some time; others go before these
    open: dict[str, tuple[AsyncConnection, str]] = field(default_factory=dict)
    number: int = 0

    async def step(self) -> None:
        what = self.chance.choices(
            [self.write, self.begin, self.end, self.relay, self.retry], [20, 20, 15, 40, 5]
        )[0]
        await what()

    def name(self) -> str:
        self.number += 1
        return f"e{self.number}"

    def free(self) -> str | None:
        resource = f"order:{self.chance.randrange(6)}"
        return resource if resource not in self.open else None

    async def write(self) -> None:
        if resource := self.free():
            name = self.name()
            await add(self.engine, name, resource.partition(":")[2])
            self.committed[resource].append(name)

    async def begin(self) -> None:
        if len(self.open) < 4 and (resource := self.free()):
            connection, name = await self.engine.connect(), self.name()
            await insert(connection, name, resource.partition(":")[2])
            self.open[resource] = (connection, name)

    async def end(self) -> None:
        if self.open:
            resource = self.chance.choice(sorted(self.open))
            connection, name = self.open.pop(resource)
            if self.chance.random() < 0.8:
                await connection.commit()
                self.committed[resource].append(name)
            await connection.close()

    async def relay(self) -> None:
        lanes = self.chance.choice(self.relays)
        async with lanes.claim(self.chance.choice([16, 32, 1000]), MUCH) as claim:
            settlement = Settlement()
            for chain in chains_of(claim.rows, settlement, "nats-msg-id"):
                stored = self.chance.randint(0, len(chain.rows))
                for message in chain.messages[:stored]:
                    message.outcome = Outcome.STORED
                settlement.sent.extend(row.id for row in chain.rows[:stored])
                self.sent[chain.resource].extend(row.event_id for row in chain.rows[:stored])
                if stored == len(chain.rows) or self.chance.random() < 0.6:
                    keep_pace(chain, stored, settlement)
                    continue
                refused = chain.rows[stored]
                if self.chance.random() < 0.2:
                    self.given_up.add(refused.event_id)
                    settlement.failures.append(Failure(refused.id, 10, "no"))
                    settlement.release(refused, LEAST_READY)
                    continue
                settlement.retries.append(Retry(refused.id, 1, "no", 0.0))
                settlement.held.extend(row.id for row in chain.rows[stored + 1 :])
            await claim.settle(settlement)

    async def retry(self) -> None:
        maintenance = OutboxMaintenance(self.engine)
        await self.chance.choice([maintenance.release_orphans, maintenance.retry_failed])()

    def in_order(self, names: dict[str, list[str]]) -> dict[str, list[str]]:
        """Those of `names` that have an order."""
        return {
            resource: [name for name in those if name not in self.given_up]
            for resource, those in sorted(names.items())
        }

    async def finish(self) -> None:
        while self.open:
            await self.end()
        async with asyncio.timeout(60):
            while await rows(
                self.engine, "SELECT 1 FROM jetstream_outbox_events WHERE status <> 'sent' LIMIT 1"
            ):
                await self.relay()
                await OutboxMaintenance(self.engine).retry_failed()


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_each_resource_keeps_the_order_of_its_commits(
    postgres_url: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Floors rise with each claim here, and every event is sent once and in order."""
    monkeypatch.setattr("jetstream_bridge.outbox.floors.LAG", 1)
    monkeypatch.setattr("jetstream_bridge.outbox.floors.SURVEY_LAG", 1)
    monkeypatch.setattr("jetstream_bridge.outbox.chains.LEAST_READY", 2)
    async with database(postgres_url) as (engine, _):
        world = _World(engine, random.Random(seed), [relay_on(engine) for _ in range(2)])
        for _ in range(400):
            await world.step()
        await world.finish()
        assert world.in_order(world.sent) == world.in_order(world.committed)
        assert {name: sorted(those) for name, those in world.sent.items()} == {
            name: sorted(those) for name, those in world.committed.items()
        }
        assert all(highest(lanes) > 50 for lanes in world.relays)
