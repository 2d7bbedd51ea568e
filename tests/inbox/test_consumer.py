"""The worker: every event takes effect once, poison harms nobody, nothing is stuck or dropped."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import nats
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import Consumers, Event, Publisher, Retry, Unrecoverable
from jetstream_bridge.inbox.store import Inbox
from jetstream_bridge.testing.postgres import PostgresServer
from tests.bridge.consuming import (
    DURABLE,
    STREAM,
    Change,
    Service,
    insert,
    letter,
    recording,
    service_on,
)
from tests.bridge.support import envelope, rows
from tests.brokers import Broker, MockBroker, on_nats_server
from tests.waiting import eventually


async def test_every_event_takes_effect_once_and_leaves_the_queue(service: Service) -> None:
    await service.send_many(500, resources=50)
    async with service.working(recording()):
        await eventually(service.is_empty, limit=20)
    assert sorted(await service.effects()) == list(range(500))
    inbox = await service.inbox()
    assert len(inbox) == 500
    assert {status for status, _ in inbox.values()} == {"processed"}
    assert (await service.info()).config.durable_name == DURABLE


async def test_a_second_delivery_of_the_same_event_is_not_handled(service: Service) -> None:
    await service.send(envelope("e1", n=1))
    async with service.working(recording()):
        await eventually(service.is_empty)
        await service.send(envelope("e1", n=1))  # without an id header the server stores it
        await eventually(service.is_empty)
        await service.send(envelope("e1", n=1), headers={"nats-msg-id": "e1"})
        await eventually(service.is_empty)
    assert await service.effects() == [1]


async def test_the_same_event_twice_in_one_batch_is_handled_once(service: Service) -> None:
    for _ in range(3):
        await service.send(envelope("e1", n=1))
    async with service.working(recording()):
        await eventually(service.is_empty)
    assert await service.effects() == [1]


async def test_a_batch_costs_few_statements_however_many_events_it_has(service: Service) -> None:
    consumers = Consumers()

    @consumers.on("*")
    async def nothing(event: Event[dict]) -> None:  # type: ignore[type-arg]
        return None

    async with service.working(consumers):
        statements: list[str] = []

        @event.listens_for(service.engine.sync_engine, "before_cursor_execute")
        def count(conn: object, cursor: object, statement: str, *rest: object) -> None:
            if not statement.startswith("BEGIN"):
                statements.append(statement)

        await service.send_many(20, resources=20)
        await eventually(service.is_empty)
        statements.clear()
        await service.send_many(400, resources=400, start=20)
        await eventually(service.is_empty, limit=20)
        inserts = [s for s in statements if "INSERT INTO jetstream_inbox_events" in s]
        proofs = [s for s in statements if s.startswith("SELECT txid_current_if_assigned")]
    assert len(statements) == len(inserts) + len(proofs), "two statements for each transaction"
    assert len(proofs) == (len(inserts) if service.engine.dialect.name == "postgresql" else 0)
    assert len(inserts) <= 400


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_backlog_is_handled_in_few_transactions(service: Service) -> None:
    await service.send_many(1000, resources=1000)
    commits: list[object] = []
    event.listen(service.engine.sync_engine, "commit", commits.append)
    async with service.working(recording()):
        await eventually(service.is_empty, limit=20)
    # Batches are as large as handlers are fast, and on a busy machine nothing is fast.
    assert len(commits) < 250


async def test_one_poison_event_harms_and_blocks_nobody(service: Service) -> None:
    consumers = Consumers()
    tries: list[tuple[int, float]] = []

    @consumers.on("order.changed")
    async def handle(event: Event[Change], session: AsyncSession) -> None:
        await insert(session, event.payload.n)
        if event.payload.n == 7:
            tries.append((event.metadata.deliveries, asyncio.get_running_loop().time()))
            raise ValueError("no seven")

    await service.send_many(40, resources=40)
    async with service.working(consumers, max_deliver=3, backoff=(0.3, 0.6)):

        async def others() -> bool:
            return len(await service.effects()) == 39

        await eventually(others)
        await eventually(service.dead_letters)
        await eventually(service.is_empty)
    [dead] = await service.dead_letters()
    assert 7 not in await service.effects()
    times = dict(tries)  # a try in a batch that failed is run once more, alone
    assert list(times) == [1, 2, 3]
    assert times[2] - times[1] >= 0.25
    assert times[3] - times[2] >= 0.5
    assert dead.data == envelope("e7", resource="7", n=7).encode()
    assert (dead.headers or {})["x-dead-letter"] == "true"
    assert (dead.headers or {})["x-dlq-reason"] == "max_deliver_exceeded"
    assert (dead.headers or {})["x-deliveries"] == "3"
    assert (dead.headers or {})["Nats-Msg-Id"].startswith(f"dlq:{STREAM}:8:")
    context = letter(dead)
    assert list(context) == [
        "event_id",
        "reason",
        "error_class",
        "error_message",
        "deliveries",
        "original_subject",
        "sequence",
        "consumer",
        "stream",
        "published_at",
        "raised_at",
    ]
    assert (context["event_id"], context["error_class"], context["error_message"]) == (
        "e7",
        "ValueError",
        "no seven",
    )
    assert (context["sequence"], context["consumer"]) == (8, DURABLE)
    assert context["raised_at"].startswith("tests/inbox/test_consumer.py:")
    status, told = (await service.inbox())["e7"]
    assert (status, told) == ("dead_lettered", f"ValueError: no seven ({context['raised_at']})")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{broken", "malformed_json"),
        (b"", "malformed_json"),
        (b"\xff\xfe", "malformed_json"),
        (b'{"event_type":"x","payload":NaN}', "malformed_json"),
        (b"null", "invalid_envelope"),
        (b"[1]", "invalid_envelope"),
        (b"5", "invalid_envelope"),
        (b'"x"', "invalid_envelope"),
        (b"{}", "invalid_envelope"),
        (b'{"event_type":"order.changed"}', "invalid_envelope"),
        (b'{"event_type":7,"payload":{}}', "invalid_envelope"),
        (b'{"event_type":"order.changed","payload":[1]}', "invalid_payload"),
        (b'{"event_type":"order.changed","payload":{"n":"many"}}', "invalid_payload"),
    ],
)
async def test_a_body_that_cannot_be_handled_is_a_dead_letter_at_once(
    sqlite_url: str, broker: Broker, body: bytes, reason: str
) -> None:
    async with service_on(sqlite_url, broker) as service:
        await service.send(body, headers={"x-custom": "kept"})
        await service.send(envelope("good", n=1))
        async with service.working(recording()):
            await eventually(service.is_empty)
        [dead] = await service.dead_letters()
        headers = dead.headers or {}
        assert (dead.data or b"") == body
        assert (headers["x-dlq-reason"], headers["x-deliveries"]) == (reason, "1")
        assert headers["x-custom"] == "kept"
        assert await service.effects() == [1]


async def test_unrecoverable_is_a_dead_letter_at_once_and_retry_chooses_its_delay(
    service: Service,
) -> None:
    consumers = Consumers()
    tries: list[float] = []

    @consumers.on("order.changed")
    async def handle(event: Event[Change]) -> None:
        if event.payload.n == 1:
            raise Unrecoverable("ünusable\nfor ever")
        tries.append(asyncio.get_running_loop().time())
        if event.metadata.deliveries == 1:
            raise Retry(delay=0.7)

    await service.send_many(3, resources=3, start=1)
    async with service.working(consumers):
        await eventually(service.is_empty)
    [dead] = await service.dead_letters()
    assert (dead.headers or {})["x-dlq-reason"] == "unrecoverable"
    assert (dead.headers or {})["x-dlq-context"].isascii()
    assert letter(dead)["error_message"] == "ünusable\nfor ever"
    assert max(tries) - min(tries) >= 0.65


async def test_followers_wait_for_a_retried_event_and_burn_no_try(service: Service) -> None:
    consumers = Consumers()
    seen: dict[int, list[int]] = defaultdict(list)
    done: list[int] = []

    @consumers.on("order.changed")
    async def handle(event: Event[Change]) -> None:
        n = event.payload.n
        seen[n].append(event.metadata.deliveries)
        if n == 0 and event.metadata.deliveries < 3:
            raise ValueError("not yet")
        done.append(n)

    for n in range(30):
        await service.send(envelope(f"e{n}", resource="1", n=n))
    await service.send(envelope("other", resource="2", n=99))
    async with service.working(consumers):
        await eventually(service.is_empty)
    assert [n for n in done if n != 99] == list(range(30))
    assert done.index(99) < done.index(0)
    assert all(deliveries == 1 for n in range(1, 30) for deliveries in seen[n])


async def test_events_of_one_resource_are_handled_in_order_and_others_in_parallel(
    service: Service,
) -> None:
    consumers = Consumers()
    running: set[str] = set()
    most = 0
    order: dict[str, list[int]] = defaultdict(list)

    @consumers.on("order.changed")
    async def slow(event: Event[Change]) -> None:
        nonlocal most
        assert event.resource_id not in running
        running.add(event.resource_id)
        most = max(most, len(running))
        await asyncio.sleep(0.02)  # the work of this handler
        running.discard(event.resource_id)
        order[event.resource_id].append(event.payload.n)

    await service.send_many(30, resources=6)
    async with service.working(consumers, worker_concurrency=4):
        await eventually(service.is_empty, limit=20)
    assert all(numbers == sorted(numbers) for numbers in order.values())
    assert sum(map(len, order.values())) == 30
    # SQLite has one writer at a time, and every handler's transaction writes its inbox row.
    assert most == 1 if service.engine.dialect.name == "sqlite" else 2 <= most <= 4


async def test_a_slow_handler_is_not_run_twice(service: Service) -> None:
    consumers = Consumers()
    runs: list[int] = []

    @consumers.on("order.changed")
    async def slow(event: Event[Change]) -> None:
        runs.append(event.payload.n)
        await asyncio.sleep(2.5)  # longer than two ack_waits

    await service.send_many(3, resources=1)
    async with service.working(consumers, ack_wait=1.0, worker_concurrency=1):
        await eventually(service.is_empty, limit=20)
        assert (await service.info()).num_redelivered == 0
    assert runs == [0, 1, 2]


async def test_a_handler_may_publish_and_its_events_share_its_fate(service: Service) -> None:
    consumers = Consumers()

    @consumers.on("order.changed")
    async def handle(event: Event[Change], session: AsyncSession, events: Publisher) -> None:
        await events.publish("invoice.made", {"id": event.payload.n})
        if event.payload.n == 1:
            raise Unrecoverable("no")

    await service.send_many(2, resources=2)
    async with service.working(consumers):
        await eventually(service.is_empty)
    found = await rows(service.engine, "SELECT resource FROM jetstream_outbox_events")
    assert [row[0] for row in found] == ["invoice:0"]


@pytest.mark.parametrize("how", ["commit", "rollback"])
async def test_a_handler_that_ends_the_transaction_is_told_so(service: Service, how: str) -> None:
    consumers = Consumers()

    @consumers.on("order.changed")
    async def handle(event: Event[Change], session: AsyncSession) -> None:
        await insert(session, event.payload.n)
        await getattr(session, how)()

    await service.send_many(3, resources=3)
    async with service.working(consumers, max_deliver=1):
        await eventually(service.is_empty)
    assert await service.effects() == []
    letters = await service.dead_letters()
    assert len(letters) == 3
    assert {letter(dead)["error_class"] for dead in letters} == {"TransactionControlError"}


async def test_savepoints_are_a_handlers_own(service: Service) -> None:
    consumers = Consumers()

    @consumers.on("order.changed")
    async def handle(event: Event[Change], session: AsyncSession) -> None:
        nested = await session.begin_nested()
        await insert(session, 1000 + event.payload.n)
        await nested.rollback()
        async with session.begin_nested():
            await insert(session, event.payload.n)

    await service.send_many(3, resources=3)
    async with service.working(consumers):
        await eventually(service.is_empty)
    assert sorted(await service.effects()) == [0, 1, 2]


async def test_events_without_a_handler_are_acknowledged_or_dead_lettered(
    service: Service,
) -> None:
    await service.send(envelope("e1", kind="unknown"))
    async with service.working(recording()):
        await eventually(service.is_empty)
    assert await service.dead_letters() == []
    await service.send(envelope("e2", kind="unknown"))
    async with service.working(recording(), unhandled="dead_letter"):
        await eventually(service.is_empty)
    [dead] = await service.dead_letters()
    assert (dead.headers or {})["x-dlq-reason"] == "no_handler"


async def test_without_dead_letters_an_event_is_parked_whole(service: Service) -> None:
    await service.send(b"{broken", headers={"x-custom": "kept"})
    async with service.working(recording(), use_dlq=False):
        await eventually(service.is_empty)
    [row] = await rows(
        service.engine, "SELECT status, body, headers, last_error FROM jetstream_inbox_events"
    )
    assert (row.status, bytes(row.body)) == ("dead_lettered", b"{broken")
    assert "malformed_json" in row.last_error
    assert "kept" in str(row.headers)


async def test_an_event_that_is_back_before_its_batch_ended_is_tried_again(
    service: Service,
) -> None:
    """It comes again at once, and not when `ack_wait` is over."""
    consumers = Consumers()

    async def is_back() -> bool:
        delivered = (await service.info()).delivered
        return delivered is not None and delivered.consumer_seq >= 3

    @consumers.on("order.changed")
    async def handle(event: Event[Change], session: AsyncSession) -> None:
        if event.payload.n == 0 and event.metadata.deliveries == 1:
            raise ValueError("not yet")
        if event.payload.n == 1:
            await eventually(is_back, what="the first event is delivered again")
        await insert(session, event.payload.n)

    await service.send_many(2, resources=2)
    async with service.working(consumers, worker_concurrency=1, backoff=(0.05,)):
        await eventually(service.is_empty, limit=15, what="half of ack_wait is enough")
    assert sorted(await service.effects()) == [0, 1]


async def test_each_try_gets_the_payload_as_it_was_sent(service: Service) -> None:
    consumers = Consumers()
    seen: list[int] = []

    @consumers.on("order.changed")
    async def changes(event: Event[Change]) -> None:
        seen.append(event.payload.n)
        event.payload.n += 10
        if len(seen) < 4:  # a batch of two, then one by one
            raise ValueError("not yet")

    await service.send_many(2, resources=2)
    async with service.working(consumers, backoff=(0.05,)):
        await eventually(service.is_empty)
    assert set(seen) == {0, 1}


async def test_a_replayed_dead_letter_is_handled_and_ends_processed(service: Service) -> None:
    consumers = Consumers()
    broken = True

    @consumers.on("order.changed")
    async def handle(event: Event[Change], session: AsyncSession) -> None:
        await insert(session, event.payload.n)
        if broken:
            raise Unrecoverable("a bug")

    await service.send_many(1, resources=1)
    async with service.working(consumers):
        await eventually(service.dead_letters)
        await eventually(service.is_empty)
        status, told = (await service.inbox())["e0"]
        assert (status, "Unrecoverable: a bug" in (told or "")) == ("dead_lettered", True)
        broken = False
        [dead] = await service.dead_letters()
        await service.send(dead.data or b"")
        await eventually(service.is_empty)
    assert (await service.inbox())["e0"] == ("processed", None)
    assert await service.effects() == [0]


async def test_without_the_inbox_acknowledgements_are_confirmed(service: Service) -> None:
    await service.send_many(20, resources=5)
    async with service.working(recording(), use_inbox=False):
        await eventually(service.is_empty)
        assert (await service.info()).num_ack_pending == 0
    assert sorted(await service.effects()) == list(range(20))
    assert await service.inbox() == {}


async def test_events_without_any_id_are_known_by_their_place_in_the_stream(
    service: Service,
) -> None:
    await service.send('{"event_type":"order.changed","payload":{"n":1}}')
    async with service.working(recording()):
        await eventually(service.is_empty)
    assert [key[:6] for key in await service.inbox()] == ["seq:1:"]


async def test_a_stream_made_anew_counts_from_one_and_its_events_are_handled(
    service: Service,
) -> None:
    async with service.working(recording()):
        await service.send_many(3, resources=3)
        await eventually(service.is_empty)
        await service.client.jetstream().delete_stream(STREAM)

        async def back() -> bool:
            try:
                await service.info()
            except nats.js.errors.NotFoundError:
                return False
            return True

        await eventually(back, limit=20, what="the stream and its consumer are there again")
        await service.send_many(3, resources=3, start=3)
        await eventually(service.is_empty)
    assert sorted(await service.effects()) == list(range(6))


async def test_a_deleted_consumer_is_made_again(service: Service) -> None:
    async with service.working(recording()):
        await service.send_many(3, resources=3)
        await eventually(service.is_empty)
        await service.client.jetstream().delete_consumer(STREAM, DURABLE)
        await service.send_many(3, resources=3, start=3)
        await eventually(service.is_empty, limit=20)
    assert sorted(await service.effects()) == list(range(6))


async def test_a_restarted_server_is_pulled_from_again(service: Service) -> None:
    async with service.working(recording()):
        for turn in range(3):
            service.broker.kill()
            service.broker.start()

            async def is_sent(turn: int = turn) -> bool:
                try:
                    # A resource of its own: a copy of the one before may be outstanding, and
                    # what follows it waits until the server delivers it again.
                    sent = envelope(f"t{turn}", resource=str(turn), n=turn)
                    await service.send(sent, timeout=0.5)
                except (nats.errors.Error, OSError):
                    return False
                return True

            await eventually(is_sent, limit=20)

            async def handled(turn: int = turn) -> bool:
                return turn in await service.effects()

            await eventually(handled, limit=20)
    assert await service.effects() == [0, 1, 2]


# On SQLite a waiting handler keeps the write lock, so this waits in real time: not on the mock.
@on_nats_server
async def test_stop_hands_back_at_once_what_was_not_begun(service: Service) -> None:
    consumers = Consumers()
    begun = asyncio.Event()
    finish = asyncio.Event()

    @consumers.on("order.changed")
    async def slow(event: Event[Change], session: AsyncSession) -> None:
        begun.set()
        await finish.wait()
        await insert(session, event.payload.n)

    await service.send_many(6, resources=6)
    first = service.bridge(consumers, worker_concurrency=1, worker_batch_size=1)
    async with first:
        await begun.wait()
        stopping = asyncio.create_task(first.stop())
        async with service.working(recording()):

            async def others() -> bool:
                # On SQLite once the first is stopped: until then it holds the write lock.
                return len(await service.effects()) >= 5

            await eventually(others, what="another worker has the rest at once")
            finish.set()
            await stopping
            await eventually(service.is_empty)
    assert sorted(await service.effects()) == list(range(6))


async def test_what_a_worker_gives_back_when_it_stops_has_used_up_no_try(service: Service) -> None:
    consumers = Consumers()
    begun, go_on = asyncio.Event(), asyncio.Event()

    @consumers.on("order.changed")
    async def slow(event: Event[Change], session: AsyncSession) -> None:
        begun.set()
        await go_on.wait()
        await insert(session, event.payload.n)

    await service.send_many(6, resources=1)
    async with service.working(consumers, max_deliver=1):
        await begun.wait()
        asyncio.get_running_loop().call_later(0.2, go_on.set)
    assert await service.effects() == [0]
    async with service.working(consumers, max_deliver=1):
        await eventually(service.is_empty)
    assert await service.effects() == list(range(6))
    assert await service.dead_letters() == []


async def test_a_handler_past_the_grace_period_is_stopped_and_its_event_given_back(
    service: Service,
) -> None:
    consumers = Consumers()
    begun = asyncio.Event()

    @consumers.on("order.changed")
    async def hangs(event: Event[Change], session: AsyncSession) -> None:
        await insert(session, event.payload.n)
        begun.set()
        await asyncio.Event().wait()

    await service.send_many(1, resources=1)
    async with service.working(consumers, shutdown_grace=0.2):
        await begun.wait()
    assert await service.effects() == []
    async with service.working(recording()):
        await eventually(service.is_empty, limit=5)
    assert await service.effects() == [0]


async def test_exclusive_workers_take_turns(service: Service) -> None:
    consumers = Consumers()
    running = 0

    @consumers.on("order.changed")
    async def alone(event: Event[Change], session: AsyncSession) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await insert(session, event.payload.n)
        running -= 1

    first = service.bridge(consumers, worker_exclusive=True, worker_concurrency=1)
    second = service.bridge(consumers, worker_exclusive=True, worker_concurrency=1)
    async with second:
        async with first:
            await service.send_many(20, resources=4)
            await eventually(service.is_empty)
        await service.send_many(20, resources=4, start=20)
        await eventually(service.is_empty, limit=10)
    assert sorted(await service.effects()) == list(range(40))


async def test_a_worker_that_lost_its_lease_commits_nothing_and_hands_all_back(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    async with service.working(recording(), worker_exclusive=True, max_deliver=1) as bridge:
        await service.send_many(2, resources=1)
        await eventually(service.is_empty)
        async with service.engine.begin() as connection:
            await connection.execute(text("UPDATE jetstream_leases SET holder = 'another'"))
        await service.send_many(6, resources=3, start=2)
        await eventually(lambda: "is held by another worker" in caplog.text)
        assert await service.effects() == [0, 1]
        async with service.engine.begin() as connection:
            await connection.execute(text("DELETE FROM jetstream_leases"))
        await eventually(service.is_empty, limit=20)
        assert bridge.failures() == []
    assert sorted(await service.effects()) == list(range(8))
    assert await service.dead_letters() == []


async def test_while_the_database_refuses_every_statement_events_wait_and_burn_no_try(
    service: Service,
) -> None:
    away = False

    @event.listens_for(service.engine.sync_engine, "before_cursor_execute")
    def refuse(*_: object) -> None:
        if away:
            raise OperationalError("SELECT", {}, Exception("disk I/O error"))

    async with service.working(recording(), max_deliver=1) as bridge:
        away = True
        await service.send_many(6, resources=3)
        await eventually(lambda: not bridge.checks()["consumers"].ok, what="the check says so")
        assert "the database takes no write: disk I/O error" in (
            bridge.checks()["consumers"].detail or ""
        )
        away = False
        await eventually(service.is_empty, limit=30)
        assert bridge.checks()["consumers"].ok
    assert sorted(await service.effects()) == list(range(6))
    assert await service.dead_letters() == []


async def test_a_database_that_is_away_burns_no_try(
    broker: Broker, postgres: PostgresServer, postgres_url: str
) -> None:
    async with service_on(postgres_url, broker) as service:
        async with service.working(recording(), max_deliver=1) as bridge:
            postgres.kill()
            await service.send_many(10, resources=10)
            await eventually(lambda: not bridge.checks()["consumers"].ok, limit=20)
            postgres.start()
            await eventually(service.is_empty, limit=30)
            assert bridge.failures() == []
        assert sorted(await service.effects()) == list(range(10))
        assert await service.dead_letters() == []


async def test_further_sources_have_a_durable_of_their_own(service: Service) -> None:
    consumers = Consumers()
    seen: list[tuple[str, str]] = []

    @consumers.on("*")
    async def default(event: Event[dict]) -> None:  # type: ignore[type-arg]
        seen.append(("orders", event.event_id))

    @consumers.on("*", source="shipping")
    async def further(event: Event[dict]) -> None:  # type: ignore[type-arg]
        seen.append(("shipping", event.event_id))

    async with service.working(consumers):
        await service.send(envelope("a"))
        await service.send(envelope("b"), subject="test.shipping.sync.billing")
        await eventually(service.is_empty)
    names = [c.name for c in await service.client.jetstream().consumers_info(STREAM)]
    assert sorted(names) == [DURABLE, f"{DURABLE}-shipping"]
    assert sorted(seen) == [("orders", "a"), ("shipping", "b")]


async def test_one_id_from_two_sources_is_two_events_each_handled_once(service: Service) -> None:
    consumers = recording()

    @consumers.on("*", source="shipping")
    async def further(event: Event[Change], session: AsyncSession) -> None:
        await insert(session, event.payload.n)

    async with service.working(consumers):
        for _ in range(2):
            await service.send(envelope("a", n=1))
            await service.send(envelope("a", n=2), subject="test.shipping.sync.billing")
        await eventually(service.is_empty)
    assert sorted(await service.effects()) == [1, 2]
    found = await rows(
        service.engine, "SELECT consumer, event_id, status FROM jetstream_inbox_events"
    )
    assert {tuple(row) for row in found} == {
        (DURABLE, "a", "processed"),
        (f"{DURABLE}-shipping", "a", "processed"),
    }
    assert await service.dead_letters() == []


async def test_a_failure_that_cannot_be_recorded_is_tried_again_all_the_same(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    consumers = Consumers()

    @consumers.on("order.changed")
    async def handle(event: Event[Change], session: AsyncSession) -> None:
        if event.metadata.deliveries == 1:
            raise ValueError("not yet")
        await insert(session, event.payload.n)

    async def full(*args: object, **options: object) -> bool:
        raise OSError("no room")

    monkeypatch.setattr(Inbox, "record", full)
    await service.send_many(1, resources=1)
    async with service.working(consumers) as bridge:
        await eventually(service.is_empty)
        assert bridge.failures() == []
    assert await service.effects() == [0]
    assert "the failure of e0 is not recorded: OSError: no room" in caplog.text


@pytest.mark.parametrize("broker", ["mock"], indirect=True)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_an_acknowledgement_lost_at_the_last_try_makes_no_dead_letter(
    service: Service,
) -> None:
    assert isinstance(service.broker, MockBroker)
    service.broker.server.faults.lose_answer()
    await service.send_many(1, resources=1)
    async with service.working(recording(), max_deliver=1, ack_wait=1.0):
        await eventually(service.is_empty)
    assert await service.effects() == [0]
    assert await service.dead_letters() == []
    assert (await service.inbox())["e0"] == ("processed", None)
