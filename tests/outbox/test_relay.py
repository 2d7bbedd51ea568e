"""The relay: at least once, once in the stream, in order for each resource, through outages."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from nats.js.api import RawStreamMsg, StreamConfig
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge import Bridge, BridgeConfig
from jetstream_bridge.testing.barrier import barrier
from tests.bridge.support import (
    Sessions,
    config,
    database,
    enqueue,
    envelope,
    rows,
    scalar,
    statements,
)
from tests.brokers import Broker, MockBroker, broker_of
from tests.waiting import eventually

SUBJECT = "test.orders.sync.billing"
STREAM = "test-jetstream-bridge-stream"


def relaying(settings: BridgeConfig, sessions: Sessions, broker: Broker) -> Bridge:
    return Bridge(settings, sessions, relay=True, make_client=broker.make_client)


@asynccontextmanager
async def listening(broker: Broker, *, to_all: bool = True) -> AsyncIterator[None]:
    """Somebody looks at all messages, as with `nats sub '>'`: then nobody tells that no stream
    takes a subject."""
    client = await broker.connect()
    if to_all:
        await client.subscribe(">")
        await barrier(client)
    try:
        yield
    finally:
        await client.close()


async def stored(broker: Broker, stream: str = STREAM) -> list[RawStreamMsg]:
    """Return every message of the stream, oldest first."""
    client = await broker.connect()
    try:
        js = client.jetstream()
        state = (await js.stream_info(stream)).state
        return [await js.get_msg(stream, seq=n) for n in range(1, state.last_seq + 1)]
    finally:
        await client.close()


async def ids(broker: Broker) -> list[str]:
    return [json.loads(message.data or b"")["event_id"] for message in await stored(broker)]


async def counts(engine: AsyncEngine) -> dict[str, int]:
    found = await rows(
        engine, "SELECT status, count(*) FROM jetstream_outbox_events GROUP BY status"
    )
    return {row[0]: row[1] for row in found}


def settled(engine: AsyncEngine, **expected: int) -> Callable[[], Awaitable[bool]]:
    """A condition: so many rows have each of these statuses, and no row another one."""

    async def condition() -> bool:
        return await counts(engine) == expected

    return condition


def all_sent(engine: AsyncEngine, number: int) -> Callable[[], Awaitable[bool]]:
    return settled(engine, sent=number)


def many(number: int, *, resources: int) -> list[dict[str, str]]:
    return [
        {"event_id": f"e{n}", "payload": envelope(f"e{n}", resource=str(n % resources), n=n)}
        for n in range(number)
    ]


async def assert_in_order(broker: Broker, number: int) -> None:
    """Every event is in the stream once, and those of one resource in their order."""
    by_resource: dict[str, list[int]] = defaultdict(list)
    messages = await stored(broker)
    for message in messages:
        body = json.loads(message.data or b"")
        by_resource[body["resource_id"]].append(body["payload"]["n"])
    assert len(messages) == number
    assert all(numbers == sorted(numbers) for numbers in by_resource.values())


async def test_rows_reach_the_stream_once_and_in_order_of_their_resource(
    database_url: str, broker: Broker
) -> None:
    async with database(database_url) as (engine, sessions):
        await enqueue(engine, many(600, resources=40), subject=SUBJECT)
        async with relaying(config(broker.url), sessions, broker):
            await eventually(all_sent(engine, 600), limit=20)
        await assert_in_order(broker, 600)
        [first, *_] = await stored(broker)
        assert first.headers == {"Nats-Msg-Id": json.loads(first.data or b"")["event_id"]}


async def test_a_relay_ends_in_order_though_the_database_is_away(
    database_url: str, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    away = False

    async with database(database_url) as (engine, sessions):

        @event.listens_for(engine.sync_engine, "before_cursor_execute")
        def refuse(*_: object) -> None:
            if away:
                raise OperationalError("SELECT", {}, Exception("gone"))

        async with relaying(config(broker.url), sessions, broker) as bridge:
            await enqueue(engine, [{"event_id": "e1", "payload": envelope("e1")}], subject=SUBJECT)
            await eventually(all_sent(engine, 1))
            away = True
        assert bridge.failures() == []
        assert "died" not in caplog.text


async def test_body_and_headers_travel_as_they_were_written(
    database_url: str, broker: Broker
) -> None:
    async with database(database_url) as (engine, sessions):
        bridge = relaying(config(broker.url), sessions, broker)
        async with bridge:
            async with sessions() as session:
                result = await bridge.publisher(session).publish(
                    "order.placed",
                    {"id": 7, "title": "Ünïcode ☃", "total": 10.5},
                    headers={"x-tenant": "acme"},
                    trace_id="t-1",
                    occurred_at="2026-01-02T03:04:05Z",
                )
                await session.commit()
            await eventually(all_sent(engine, 1))
        [message] = await stored(broker)
        assert message.subject == SUBJECT
        assert message.headers == {"x-tenant": "acme", "Nats-Msg-Id": result.event_id}
        assert (message.data or b"").decode() == (
            f'{{"event_id":"{result.event_id}","schema_version":1,"event_type":"order.placed",'
            '"producer":"orders","resource_id":"7","occurred_at":"2026-01-02T03:04:05Z",'
            '"trace_id":"t-1","resource_type":"order",'
            '"payload":{"id":7,"title":"Ünïcode ☃","total":10.5}}'
        )


async def test_gem_peers_get_the_id_in_lower_case(database_url: str, broker: Broker) -> None:
    async with database(database_url) as (engine, sessions):
        await enqueue(engine, many(1, resources=1), subject=SUBJECT)
        async with relaying(config(broker.url, gem_peer=True), sessions, broker):
            await eventually(all_sent(engine, 1))
        [message] = await stored(broker)
        assert message.headers == {"nats-msg-id": "e0"}


async def test_an_outage_burns_no_attempt_and_everything_arrives(
    database_url: str, broker: Broker
) -> None:
    broker.terminate()
    async with database(database_url) as (engine, sessions):
        bridge = relaying(config(broker.url), sessions, broker)
        async with bridge:
            await enqueue(engine, many(50, resources=10), subject=SUBJECT)
            await eventually(lambda: bridge.checks()["relay"].detail == "not connected to NATS")
            broker.start()
            await eventually(all_sent(engine, 50), limit=20)
            broker.kill()
            async with engine.begin() as connection:
                await connection.execute(text("UPDATE jetstream_outbox_events SET attempts = 0"))
            more = [
                {"event_id": f"f{n}", "payload": envelope(f"f{n}", resource=str(n % 10), n=50 + n)}
                for n in range(50)
            ]
            await enqueue(engine, more, subject=SUBJECT)
            await eventually(lambda: not bridge.checks()["relay"].ok)
            broker.start()
            await eventually(all_sent(engine, 100), limit=20)
        assert await scalar(engine, "SELECT sum(attempts) FROM jetstream_outbox_events") == 0
        await assert_in_order(broker, 100)


async def test_who_committed_answers_before_the_relay_looks(sqlite_url: str) -> None:
    """And what commits in the same moment causes no second look."""
    async with (
        broker_of("mock") as broker,
        database(sqlite_url) as (engine, sessions),
        relaying(config(broker.url), sessions, broker) as bridge,
    ):
        await eventually(lambda: bridge.checks()["relay"].ok)
        relay = bridge._relay
        assert relay is not None
        await eventually(lambda: relay._waking is None)
        relay._work.clear()
        bridge._outbox.committed()
        assert not relay._work.is_set(), "the relay is not woken in the same turn of the loop"
        wakes = relay._waking
        bridge._outbox.committed()
        assert relay._waking is wakes is not None
        async with sessions() as session:
            await bridge.publisher(session).publish("order.changed", {"id": 1})
            await session.commit()
        await eventually(all_sent(engine, 1))
        await eventually(lambda: relay._waking is None)


async def test_commits_do_not_hurry_a_relay_in_an_outage_that_fails_fast(sqlite_url: str) -> None:
    async with (
        broker_of("mock") as broker,
        database(sqlite_url) as (engine, sessions),
        relaying(config(broker.url), sessions, broker) as bridge,
    ):
        assert isinstance(broker, MockBroker)
        await eventually(lambda: bridge.checks()["relay"].ok)
        broker.server.fill(STREAM)
        await enqueue(engine, many(1, resources=1), subject=SUBJECT)
        await eventually(lambda: not bridge.checks()["relay"].ok)
        seen = statements(engine)
        for _ in range(100):
            bridge.wake_relay()  # as each commit does
            await broker.passes(0.05)
        claims = [statement for statement in seen if "jetstream_pauses" in statement]
        assert 1 <= len(claims) <= 12, "0.1 s apart, 0.2 s, and so on to 2 s, less the jitter"
        broker.server.fill(STREAM, full=False)
        await eventually(all_sent(engine, 1))


async def test_order_holds_when_the_server_is_killed_again_and_again(
    database_url: str, broker: Broker
) -> None:
    async with database(database_url) as (engine, sessions):
        await enqueue(engine, many(4000, resources=50), subject=SUBJECT)
        async with relaying(config(broker.url), sessions, broker):
            for part in (300, 900, 1800):

                async def sent(part: int = part) -> bool:
                    return (await counts(engine)).get("sent", 0) >= part

                await eventually(sent, limit=30)
                broker.kill()
                broker.start()
            await eventually(all_sent(engine, 4000), limit=40)
        await assert_in_order(broker, 4000)


async def test_several_relays_share_the_lanes_and_keep_the_order(
    postgres_url: str, broker: Broker
) -> None:
    async with database(postgres_url) as (engine, sessions):
        await enqueue(engine, many(3000, resources=60), subject=SUBJECT)
        settings = config(broker.url, relay_batch_size=100)
        async with (
            relaying(settings, sessions, broker),
            relaying(settings, sessions, broker),
            relaying(settings, sessions, broker),
        ):
            await eventually(all_sent(engine, 3000), limit=30)
        await assert_in_order(broker, 3000)


async def test_a_refused_event_is_tried_again_then_fails_and_its_resource_goes_on(
    database_url: str, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "jetstream_bridge")
    await create_stream(broker, max_msg_size=1000)
    async with database(database_url) as (engine, sessions):
        large = envelope("large", resource="1", note="x" * 2000)
        events = [
            {"event_id": "large", "payload": large},
            *({"event_id": f"e{n}", "payload": envelope(f"e{n}", resource="1")} for n in range(5)),
            {"event_id": "other", "payload": envelope("other", resource="2")},
        ]
        await enqueue(engine, events, subject=SUBJECT)
        settings = config(broker.url, outbox_max_attempts=3)
        async with relaying(settings, sessions, broker):

            async def blocked() -> bool:
                held = "SELECT count(*) FROM jetstream_outbox_events WHERE held"
                return bool(await scalar(engine, held) == 6)

            await eventually(blocked, what="the refused event and its followers are held")
            assert "other" in await ids(broker)

            await eventually(settled(engine, failed=1, sent=6))
        [failed] = await rows(
            engine,
            "SELECT event_id, attempts, last_error FROM jetstream_outbox_events "
            "WHERE status = 'failed'",
        )
        assert (failed.event_id, failed.attempts) == ("large", 3)
        assert "10054" in failed.last_error
        followers = [i for i in await ids(broker) if i.startswith("e")]
        assert followers == ["e0", "e1", "e2", "e3", "e4"]
    lines = [record.__dict__ for record in caplog.records if hasattr(record, "outcome")]
    fates = [(line["event_id"], line["outcome"], line["levelname"]) for line in lines]
    assert sorted(fates) == sorted(
        [
            *[("large", "refused", "WARNING")] * 2,
            ("large", "failed", "ERROR"),
            *((i, "published", "DEBUG") for i in (*followers, "other")),
        ]
    )
    [line] = [line for line in lines if line["event_id"] == "other"]
    told = [line[name] for name in ("event_type", "resource", "trace_id")]
    assert told == ["order.changed", "order:2", "t"] and line["milliseconds"] >= 0
    assert "xxx" not in str(lines)


async def create_stream(broker: Broker, **changes: Any) -> None:
    client = await broker.connect()
    names = {"subjects": ["test.orders.sync.billing", "test.billing.sync.orders"]}
    stream = StreamConfig(name=STREAM, retention="workqueue", **names)  # type: ignore[arg-type]
    await client.jetstream().add_stream(stream.evolve(**changes))
    await client.close()


async def test_an_event_larger_than_the_server_takes_fails_and_harms_nothing(
    database_url: str, broker: Broker
) -> None:
    """Sent as it is, it would make the server close the connection for good."""
    async with database(database_url) as (engine, sessions):
        body = envelope("large", note="")
        room = 1024 * 1024 - len(body)  # fits without its headers
        await enqueue(
            engine,
            [
                {"event_id": "large", "payload": envelope("large", note="x" * room)},
                {"event_id": "small", "payload": envelope("small", resource="2")},
            ],
            subject=SUBJECT,
        )
        settings = config(broker.url, outbox_max_attempts=1)
        bridge = relaying(settings, sessions, broker)
        async with bridge:
            await eventually(settled(engine, failed=1, sent=1))
            assert bridge.connection.generation == 1
        error = await scalar(
            engine, "SELECT last_error FROM jetstream_outbox_events WHERE status = 'failed'"
        )
        assert "max_payload" in error


@pytest.mark.parametrize("watched", [False, True], ids=["unwatched", "watched"])
async def test_a_subject_without_a_stream_counts_against_the_event_only(
    database_url: str, broker: Broker, watched: bool
) -> None:
    async with database(database_url) as (engine, sessions), listening(broker, to_all=watched):
        await enqueue(
            engine, [{"event_id": "lost", "payload": envelope("lost")}], subject="nobody.listens"
        )
        await enqueue(engine, many(5, resources=5), subject=SUBJECT)
        settings = config(broker.url, outbox_max_attempts=2)
        async with relaying(settings, sessions, broker):
            await eventually(settled(engine, failed=1, sent=5))
        error = await scalar(
            engine, "SELECT last_error FROM jetstream_outbox_events WHERE status = 'failed'"
        )
        assert "nobody.listens" in error


async def test_a_new_destination_is_added_to_the_stream_when_it_is_first_needed(
    database_url: str, broker: Broker
) -> None:
    async with database(database_url) as (engine, sessions):
        bridge = relaying(config(broker.url), sessions, broker)
        async with bridge:
            async with sessions() as session:
                await bridge.publisher(session).publish(
                    "order.placed", {"id": 1}, destination="shipping"
                )
                await session.commit()
            await eventually(all_sent(engine, 1))
        [message] = await stored(broker)
        assert message.subject == "test.orders.sync.shipping"


async def test_an_ack_of_another_stream_does_not_count(database_url: str, broker: Broker) -> None:
    client = await broker.connect()
    await client.jetstream().add_stream(name="other", subjects=["foreign.subject"])
    await client.close()
    async with database(database_url) as (engine, sessions):
        await enqueue(
            engine, [{"event_id": "e", "payload": envelope("e")}], subject="foreign.subject"
        )
        async with relaying(config(broker.url, outbox_max_attempts=1), sessions, broker):
            await eventually(settled(engine, failed=1))
        error = await scalar(engine, "SELECT last_error FROM jetstream_outbox_events")
        assert "stored by stream 'other'" in error


@pytest.mark.parametrize("watched", [False, True], ids=["unwatched", "watched"])
async def test_a_deleted_stream_is_made_again_and_nothing_is_lost(
    database_url: str, broker: Broker, watched: bool
) -> None:
    async with database(database_url) as (engine, sessions), listening(broker, to_all=watched):
        async with relaying(config(broker.url), sessions, broker) as bridge:
            await eventually(lambda: bridge.topology.problem is None)
            await enqueue(engine, many(3, resources=3), subject=SUBJECT)
            await eventually(all_sent(engine, 3))
            client = await broker.connect()
            await client.jetstream().delete_stream(STREAM)
            await client.close()
            await enqueue(
                engine, [{"event_id": "later", "payload": envelope("later")}], subject=SUBJECT
            )
            await eventually(all_sent(engine, 4))
        assert await ids(broker) == ["later"]


async def test_relay_that_dies_amid_a_claim_releases_its_lanes(
    postgres_url: str, broker: Broker
) -> None:
    """The database ends the first relay's connections: its claims end with them."""
    async with database(postgres_url) as (engine, sessions):
        async with relaying(config(broker.url), sessions, broker):
            await enqueue(engine, many(2000, resources=50), subject=SUBJECT)
            kill = (
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            for _ in range(5):
                await scalar(engine, kill)
            await eventually(all_sent(engine, 2000), limit=30)
        await assert_in_order(broker, 2000)


@pytest.mark.parametrize("number", [1000])
async def test_draining_costs_few_statements(
    number: int, database_url: str, broker: Broker
) -> None:
    async with database(database_url) as (engine, sessions):
        bridge = relaying(config(broker.url), sessions, broker)
        async with bridge:
            await eventually(lambda: bridge.topology.problem is None)
            await bridge.connection.wait_connected(20)
            counted = count_outbox_statements(engine)
            await enqueue(engine, many(number, resources=number), subject=SUBJECT)
            await eventually(all_sent(engine, number))
        marking = [s for s in counted if "UPDATE jetstream_outbox_events" in s]
        # 8 of the 16 lanes at a time make two claims; a third takes what a full lane left.
        assert 1 <= len(marking) <= 4, marking


def count_outbox_statements(engine: AsyncEngine) -> Sequence[str]:
    statements: list[str] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def count(conn: object, cursor: object, statement: str, *rest: object) -> None:
        statements.append(statement)

    return statements


async def test_one_blocked_resource_does_not_slow_the_others(
    database_url: str, broker: Broker
) -> None:
    """Its followers leave what the relay reads, each once, and all go out in order later."""
    await create_stream(broker, max_msg_size=1000)
    async with database(database_url) as (engine, sessions):
        followers = [
            {"event_id": f"e{n}", "payload": envelope(f"e{n}", resource="1", n=n)}
            for n in range(3000)
        ]
        head = {"event_id": "head", "payload": envelope("head", resource="1", note="x" * 2000)}
        await enqueue(engine, [head, *followers], subject=SUBJECT)
        settings = config(broker.url, backoff=(3600.0,))
        async with relaying(settings, sessions, broker):

            async def held() -> bool:
                sql = "SELECT count(*) FROM jetstream_outbox_events WHERE held"
                return bool(await scalar(engine, sql) == 3001)

            await eventually(held, limit=20)
            await enqueue(
                engine, [{"event_id": "o", "payload": envelope("o", resource="2")}], subject=SUBJECT
            )

            async def other_sent() -> bool:
                return (await counts(engine)).get("sent") == 1

            await eventually(other_sent, limit=5)
            async with engine.begin() as connection:  # somebody makes the head small
                cast = "CAST(:p AS json)" if engine.dialect.name == "postgresql" else ":p"
                await connection.execute(
                    text(
                        f"UPDATE jetstream_outbox_events SET payload = {cast}, "
                        "retry_at = CURRENT_TIMESTAMP WHERE event_id = 'head'"
                    ),
                    {"p": envelope("head", resource="1", n=-1)},
                )
            await eventually(all_sent(engine, 3002), limit=30)
        order = [i for i in await ids(broker) if i != "o"]
        assert order == ["head", *(f"e{n}" for n in range(3000))]
