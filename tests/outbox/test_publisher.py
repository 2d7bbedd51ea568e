"""Publishing: every form of an event, what the caller is told, and what is refused before
anything is written.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel
from sqlalchemy import text

from jetstream_bridge import BatchResult, Bridge, BridgeConfig, ConnectionOptions, PublishResult
from jetstream_bridge.core.errors import (
    InvalidEventError,
    InvalidSubjectError,
    SessionEndedError,
    UnknownSubjectError,
)
from jetstream_bridge.core.leases import Lease
from jetstream_bridge.events.envelope import build
from jetstream_bridge.outbox.sessions import NewEvent, Outbox
from jetstream_bridge.topology import subject_index as routes
from jetstream_bridge.topology.subject_index import REREAD_EVERY
from tests.bridge.support import Sessions, config, database, envelope, rows, scalar
from tests.brokers import Broker
from tests.events.test_event import SENT, event
from tests.outbox.test_relay import all_sent, ids, relaying, stored
from tests.waiting import eventually

CASES = json.loads((Path(__file__).parent.parent / "vectors" / "publish.json").read_text())["cases"]
NOWHERE = ConnectionOptions(urls=("nats://127.0.0.1:1",))


@pytest.fixture
async def sessions(sqlite_url: str) -> AsyncIterator[Sessions]:
    async with database(sqlite_url) as (_, sessions):
        yield sessions


def bridge(sessions: Sessions, **changes: Any) -> Bridge:
    """A bridge that is not started: publishing into the outbox needs no connection."""
    settings = BridgeConfig(
        app_name="orders", destination_app="billing", env="test", connection=NOWHERE, **changes
    )
    return Bridge(settings, sessions)


async def test_result_names_the_event_and_its_subject(sessions: Sessions) -> None:
    async with sessions() as session:
        result = await bridge(sessions).publisher(session).publish("order.placed", {"id": 1})
    assert result.success
    assert result.subject == "test.orders.sync.billing"
    assert not result.duplicate
    assert result.error is None


async def test_destination_and_subject_say_where_it_goes(sessions: Sessions) -> None:
    async with sessions() as session:
        events = bridge(sessions).publisher(session)
        there = await events.publish("order.placed", {}, destination="shipping")
        override = await events.publish("order.placed", {}, subject="some.other.subject")
    assert there.subject == "test.orders.sync.shipping"
    assert override.subject == "some.other.subject"


async def test_an_id_that_was_published_before_is_told_and_kept_once(
    database_url: str,
) -> None:
    async with database(database_url) as (engine, sessions):
        under_test = bridge(sessions)
        async with sessions() as session:
            events = under_test.publisher(session)
            first = await events.publish("order.placed", {"id": 1}, event_id="mine")
            second = await events.publish("order.placed", {"id": 1}, event_id="mine")
            await session.commit()
        async with sessions() as session:
            third = await under_test.publisher(session).publish(
                "order.placed", {"id": 1}, event_id="mine"
            )
            await session.commit()
        assert [r.duplicate for r in (first, second, third)] == [False, True, True]
        assert len(await rows(engine, "SELECT id FROM jetstream_outbox_events")) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"destination": "dlq"}, InvalidSubjectError, "dlq"),
        ({"destination": "a.b"}, InvalidSubjectError, "a.b"),
        ({"subject": "a.*"}, InvalidSubjectError, "wildcard"),
        ({"subject": "a b"}, InvalidSubjectError, "a b"),
        ({"headers": {"x": "a\r\nb"}}, InvalidEventError, "x"),
        ({"headers": {"x": "ü"}}, InvalidEventError, "ASCII"),
        ({"headers": {"x y": "a"}}, InvalidEventError, "x y"),
        ({"headers": {"nats-msg-id": "a"}}, InvalidEventError, "event_id"),
        ({"headers": {"x/y": "a"}}, InvalidEventError, "'x/y'"),
        ({"headers": {"": "a"}}, InvalidEventError, "header name ''"),
        ({"headers": {"x:y": "a"}}, InvalidEventError, "'x:y'"),
        ({"headers": {"x\n": "a"}}, InvalidEventError, "header name"),
        ({"headers": {"ü": "a"}}, InvalidEventError, "header name"),
        ({"headers": {5: "a"}}, InvalidEventError, "header name 5"),
        ({"headers": {"x": 5}}, InvalidEventError, "value 5"),
        ({"headers": {"x": "\x00"}}, InvalidEventError, "printable"),
        ({"headers": {"x": "\ud83d"}}, InvalidEventError, "printable"),
        ({"headers": {"x": " a"}}, InvalidEventError, "without blanks at its ends"),
        ({"headers": ["x"]}, InvalidEventError, "write an object"),
        ({"headers": []}, InvalidEventError, "write an object"),
        ({"headers": {"x": "a" * 65536}}, InvalidEventError, "the server takes 65535"),
        ({"headers": {"Nats-Rollup": "all"}}, InvalidEventError, "begin with Nats-"),
        ({"headers": {"nats-ttl": "1s"}}, InvalidEventError, "begin with Nats-"),
        ({"headers": {"Nats-Expected-Stream": "a"}}, InvalidEventError, "begin with Nats-"),
        ({"subject": ""}, InvalidSubjectError, "empty"),
        ({"subject": "  "}, InvalidSubjectError, "' '"),
        ({"subject": "a..b"}, InvalidSubjectError, "empty token"),
        ({"subject": "a.\ud83d"}, InvalidSubjectError, "contains"),
        ({"subject": "a." + "x" * 1023}, InvalidSubjectError, "1025 bytes long"),
        ({"event_id": " x "}, InvalidEventError, "outer blanks"),
        ({"event_id": "ü"}, InvalidEventError, "ASCII"),
        ({"event_id": "a\nb"}, InvalidEventError, "event_id"),
        ({"payload": {"x": "a\x00"}}, InvalidEventError, "NUL"),
        ({"payload": {"x": "\ud83d"}}, InvalidEventError, "JSON"),
        ({"resource_id": "\ud83d"}, InvalidEventError, "resource_id"),
        ({"trace_id": "\ud83d"}, InvalidEventError, "trace_id"),
        ({"payload": {"x": "y" * 1024 * 1024}}, InvalidEventError, "max_payload"),
        ({"event_type": ""}, InvalidEventError, "event_type"),
    ],
)
async def test_what_cannot_travel_is_refused_and_nothing_is_written(
    sessions: Sessions, arguments: dict[str, Any], error: type[Exception], named: str
) -> None:
    call = {"event_type": "order.placed", "payload": {}, **arguments}
    under_test = bridge(sessions)
    async with sessions() as session:
        with pytest.raises(error, match=named):
            await under_test.publisher(session).publish(**call)
        await session.commit()
        connection = await session.connection()
        found = await connection.exec_driver_sql("SELECT count(*) FROM jetstream_outbox_events")
        assert found.scalar_one() == 0


@pytest.mark.parametrize("batch", [False, True])
async def test_a_publisher_whose_session_was_closed_says_what_to_do(
    sessions: Sessions, batch: bool
) -> None:
    """What a background task does that was given the publisher of its request."""
    under_test = bridge(sessions)
    async with sessions() as session:
        events = under_test.publisher(session)
        await events.publish("order.placed", {"id": 1})
        await session.commit()
        await events.publish("order.placed", {"id": 2})
        await session.commit()

    async def later() -> None:
        if batch:
            async with events.publish_batch() as collected:
                collected.add("order.placed", {"id": 3})
        else:
            await events.publish("order.placed", {"id": 3})

    with pytest.raises(SessionEndedError, match="in a background task open a session"):
        await later()
    async with sessions() as session:
        found = await (await session.connection()).exec_driver_sql(
            "SELECT count(*) FROM jetstream_outbox_events"
        )
        assert found.scalar_one() == 2


async def test_a_session_that_is_used_again_after_its_closing_may_announce_what_it_writes(
    sessions: Sessions,
) -> None:
    async with sessions() as session:
        events = bridge(sessions).publisher(session)
        await session.close()
        await session.connection()
        assert (await events.publish("order.placed", {"id": 1})).success
        await session.commit()


def test_a_result_cannot_be_changed() -> None:
    result = PublishResult(success=True, event_id="e", subject="s")
    with pytest.raises(FrozenInstanceError):
        result.success = False  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        BatchResult((result,)).results = ()  # type: ignore[misc]


# --- forms


class Customer(BaseModel):
    id: UUID
    since: datetime


class CustomerCreated(BaseModel):
    """A whole envelope as a model; what it leaves None is filled in."""

    event_type: str = "customer.created"
    resource_id: str | None = None
    payload: Customer


CUSTOMER = Customer(id=UUID(int=1), since=datetime(2026, 1, 2, tzinfo=UTC))
PLAIN = {"id": "00000000-0000-0000-0000-000000000001", "since": "2026-01-02T00:00:00Z"}


async def written(sessions: Sessions, *given: Any, **fields: Any) -> dict[str, Any]:
    """Publish one event; return its envelope as it stands in the outbox."""
    under_test = bridge(sessions)
    async with sessions() as session:
        result = await under_test.publisher(session).publish(*given, **fields)
        await session.commit()
        connection = await session.connection()
        found = await connection.exec_driver_sql(
            "SELECT event_id, CAST(payload AS TEXT) FROM jetstream_outbox_events"
        )
        event_id, body = tuple(found.one())
    wire: dict[str, Any] = json.loads(body)
    assert result.event_id == event_id == wire["event_id"]
    return wire


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        (("customer.created", CUSTOMER), {}),
        (("customer.created", PLAIN), {}),
        ((), {"event_type": "customer.created", "payload": CUSTOMER}),
        (({"event_type": "customer.created", "payload": PLAIN},), {}),
        (({"event_type": "customer.created", "payload": CUSTOMER},), {}),
        ((CustomerCreated(payload=CUSTOMER),), {}),
        ((build("customer.created", CUSTOMER, producer="orders"),), {}),
        (({"event_type": "customer.created"}, CUSTOMER), {}),
    ],
)
async def test_one_event_in_every_form_is_one_envelope(
    sessions: Sessions, given: tuple[Any, ...], fields: dict[str, Any]
) -> None:
    body = await written(sessions, *given, **fields)
    assert body["event_type"] == "customer.created"
    assert (body["resource_type"], body["resource_id"]) == ("customer", PLAIN["id"])
    assert body["payload"] == PLAIN
    assert (body["producer"], body["schema_version"]) == ("orders", 1)


async def test_resource_and_type_may_come_apart(sessions: Sessions) -> None:
    body = await written(sessions, resource_type="customer", event_type="created", payload=CUSTOMER)
    assert (body["resource_type"], body["event_type"]) == ("customer", "created")


async def test_every_field_may_be_said_by_keyword(sessions: Sessions) -> None:
    said = {
        "event_id": UUID(int=7),
        "resource_type": "person",
        "resource_id": UUID(int=8),
        "trace_id": "t-1",
        "occurred_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "schema_version": 3,
        "producer": "elsewhere",
    }
    body = await written(sessions, "customer.created", {"id": 1}, **said)
    assert body == {
        **{name: str(value) for name, value in said.items()},
        "occurred_at": "2026-01-02T03:04:05Z",
        "schema_version": 3,
        "event_type": "customer.created",
        "payload": {"id": 1},
    }


async def test_none_is_the_same_as_leaving_it_out(sessions: Sessions) -> None:
    body = await written(
        sessions, "customer.created", {"id": 1}, resource_id=None, schema_version=None
    )
    assert (body["resource_id"], body["schema_version"]) == ("1", 1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
async def test_a_captured_event_is_published_to_the_byte(
    sessions: Sessions, case: dict[str, Any]
) -> None:
    given = {"producer": "api", **case["input"].get("envelope", case["input"])}
    given.pop("unknown", None)  # the other side drops what it does not know
    given.pop("subject", None)
    body = await written(sessions, given)
    assert json.dumps(body, ensure_ascii=False, separators=(",", ":")) == case["body"]


async def test_an_envelope_keeps_all_it_says(sessions: Sessions) -> None:
    body = await written(sessions, event().to_envelope())
    assert body == {**SENT, "occurred_at": "2026-01-02T02:04:05Z"}
    assert list(body) == [
        "event_id",
        "schema_version",
        "event_type",
        "producer",
        "resource_id",
        "occurred_at",
        "trace_id",
        "resource_type",
        "payload",
        "tenant",
    ]


async def test_an_event_that_came_is_an_envelope(sessions: Sessions) -> None:
    assert await written(sessions, event()) == {**SENT, "occurred_at": "2026-01-02T02:04:05Z"}


async def test_an_envelope_that_has_no_resource_gets_none_from_its_payload(
    sessions: Sessions,
) -> None:
    body = await written(
        sessions, {"event_type": "a.b", "resource_id": "", "trace_id": "", "payload": {"id": 1}}
    )
    assert body["resource_id"] == ""
    assert len(body["trace_id"]) == 16


@pytest.mark.parametrize(
    "fields",
    [
        {"event_id": "e1"},
        {"occurred_at": datetime(2026, 1, 2, 2, 4, 5, 500000, tzinfo=UTC)},
        {"payload": SENT["payload"]},
        {"resource_id": "c1", "schema_version": 2},
    ],
)
async def test_a_field_may_be_said_twice_alike(sessions: Sessions, fields: dict[str, Any]) -> None:
    payload = fields.pop("payload", None)
    body = await written(sessions, SENT, payload, **fields)
    assert body["event_id"] == "e1"


@pytest.mark.parametrize(
    ("given", "fields", "named"),
    [
        ((SENT,), {"event_id": "e2"}, "event_id is 'e1' in the envelope and 'e2' in the call"),
        ((SENT,), {"occurred_at": "2026-01-02T00:00:00Z"}, "occurred_at is '2026"),
        ((SENT,), {"schema_version": 3}, "schema_version is 2 .* and 3"),
        ((SENT, {"id": "other"}), {}, "payload is one thing in the envelope"),
        ((), {}, "event_type is missing; write publish"),
        ((), {"payload": {}}, "event_type is missing"),
        (("a.b",), {}, "payload is missing for the event 'a.b'; write publish"),
        (({"payload": {}},), {}, "the envelope has no event_type"),
        (({"event_type": "a.b"},), {}, "the envelope has no payload"),
        (({"event_type": "a.b", "payload": {}, 5: 6},), {}, "a field 5"),
        (({"event_type": "a.b", "payload": [1]},), {}, "is of type list; give a mapping"),
        ((7,), {}, "event_type is of type int"),
        (("a.b", {}), {"resource_type": 5}, "resource_type 5"),
        (("a.b", {}), {"event_id": 5}, "event_id 5"),
    ],
)
async def test_an_event_that_contradicts_itself_or_lacks_a_part_is_refused_by_name(
    sessions: Sessions, given: tuple[Any, ...], fields: dict[str, Any], named: str
) -> None:
    async with sessions() as session:
        with pytest.raises(InvalidEventError, match=named):
            await bridge(sessions).publisher(session).publish(*given, **fields)


async def test_what_a_type_checker_refuses_is_an_error_that_says_what_is_right(
    sessions: Sessions,
) -> None:
    async with sessions() as session:
        events = bridge(sessions).publisher(session)
        with pytest.raises(
            TypeError, match=r"no argument 'ressource_id'; it has resource_type, .*"
        ):
            await events.publish("a.b", {}, ressource_id="1")  # type: ignore[call-overload]
        with pytest.raises(InvalidEventError, match=r"payload of 'a\.b' is of type int"):
            await events.publish("a.b", 5)  # type: ignore[call-overload]
        with pytest.raises(InvalidEventError, match="payload is missing"):
            await events.publish("a.b")  # type: ignore[call-overload]


# --- one id, one event


async def test_one_id_in_one_transaction_and_a_rolled_back_savepoint_is_one_event(
    database_url: str,
) -> None:
    async with database(database_url) as (engine, sessions), sessions() as session:
        events = bridge(sessions).publisher(session)
        async with session.begin_nested() as savepoint:
            lost = await events.publish("a.b", {}, event_id="mine")
            await savepoint.rollback()
        first = await events.publish("a.b", {}, event_id="mine")
        second = await events.publish("a.b", {}, event_id="mine")
        await session.commit()
        assert [r.duplicate for r in (lost, first, second)] == [False, False, True]
        assert await scalar(engine, "SELECT count(*) FROM jetstream_outbox_events") == 1


async def test_two_transactions_that_race_for_one_id_both_commit_and_announce_it_once(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with database(postgres_url) as (engine, sessions):
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE thing (id int PRIMARY KEY)"))
        under_test = bridge(sessions)
        async with sessions() as a, sessions() as b:
            for number, session in enumerate((a, b)):
                await (await session.connection()).execute(
                    text("INSERT INTO thing VALUES (:n)"), {"n": number}
                )
                result = await under_test.publisher(session).publish(
                    "a.b", {"n": number}, event_id="mine"
                )
                assert not result.duplicate, "neither can see the other"
            with caplog.at_level(logging.WARNING):
                await asyncio.gather(a.commit(), b.commit())
        assert await scalar(engine, "SELECT count(*) FROM thing") == 2
        assert await scalar(engine, "SELECT count(*) FROM jetstream_outbox_events") == 1
        assert "event mine was published by another transaction meanwhile" in caplog.text


async def test_on_sqlite_the_loser_of_the_race_commits_too(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with database(sqlite_url) as (engine, sessions):
        under_test = bridge(sessions)
        async with sessions() as a, sessions() as b:
            # Added without a look into the table: the write lock lets nobody commit in between.
            Outbox().add(a, NewEvent("mine", "s", envelope("mine"), {}, chosen=True))
            await under_test.publisher(b).publish("a.b", {}, event_id="mine")
            await b.commit()
            with caplog.at_level(logging.WARNING):
                await a.commit()
        assert await scalar(engine, "SELECT count(*) FROM jetstream_outbox_events") == 1
        assert "published by another transaction" in caplog.text


async def test_an_event_published_twice_is_one_message(sqlite_url: str, broker: Broker) -> None:
    async with database(sqlite_url) as (engine, sessions):
        under_test = relaying(config(broker.url), sessions, broker)
        async with under_test:
            for _ in range(2):
                async with sessions() as session:
                    await under_test.publisher(session).publish("a.b", {}, event_id="mine")
                    await session.commit()
            await eventually(all_sent(engine, 1))
        assert await ids(broker) == ["mine"]


async def test_looking_for_an_id_takes_no_lock_on_business_rows(sqlite_url: str) -> None:
    """The publisher's own question flushes nothing; the commit does."""
    async with database(sqlite_url) as (_, sessions), sessions() as session:
        events = bridge(sessions).publisher(session)
        session.add(Lease(name="x", holder="y", expires_at=datetime.now(UTC)))
        await events.publish("a.b", {}, event_id="mine")
        assert session.new
        await session.rollback()


# --- where an event may go


async def test_a_subject_that_the_stream_does_not_take_is_refused_before_a_row_is_written(
    sqlite_url: str, broker: Broker
) -> None:
    async with database(sqlite_url) as (engine, sessions):
        under_test = relaying(config(broker.url), sessions, broker)
        async with under_test, sessions() as session:
            await eventually(lambda: under_test.topology.problem is None)
            events = under_test.publisher(session)
            with pytest.raises(
                UnknownSubjectError,
                match=r"'nobody.listens'; it has test.orders.sync.billing, .*; correct the subject",
            ):
                await events.publish("a.b", {}, subject="nobody.listens")
            await events.publish("a.b", {}, subject="test.billing.sync.orders")
            await events.publish("a.b", {}, destination="shipping")
            await session.commit()
            assert await scalar(engine, "SELECT count(*) FROM jetstream_outbox_events") == 2
            await eventually(all_sent(engine, 2))
        subjects = {message.subject for message in await stored(broker)}
        assert subjects == {"test.billing.sync.orders", "test.orders.sync.shipping"}


async def test_a_subject_that_another_service_added_since_is_found(
    sqlite_url: str, broker: Broker
) -> None:
    async with database(sqlite_url) as (_, sessions):
        under_test = relaying(config(broker.url), sessions, broker)
        async with under_test, sessions() as session:
            await eventually(lambda: under_test.topology.problem is None)
            events = under_test.publisher(session)
            client = await broker.connect()
            js = client.jetstream()
            info = await js.stream_info("test-jetstream-bridge-stream")
            assert info.config.subjects is not None
            info.config.subjects.append("audit.>")
            await js.update_stream(info.config)
            await client.close()
            result = await events.publish("a.b", {}, subject="audit.orders")
            assert result.success


async def test_a_wrong_subject_asks_nats_once_in_a_while_and_a_right_one_never(
    sqlite_url: str, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database(sqlite_url) as (_, sessions):
        under_test = relaying(config(broker.url), sessions, broker)
        async with under_test, sessions() as session:
            await eventually(lambda: under_test.topology.problem is None)
            asked: list[str] = []
            read = under_test.topology.subjects

            async def counted() -> list[str]:
                asked.append("subjects")
                return await read()

            monkeypatch.setattr(under_test.topology, "subjects", counted)
            events = under_test.publisher(session)
            for _ in range(3):
                await events.publish("a.b", {})
                await events.publish("a.b", {}, destination="shipping")
            assert asked == []
            for _ in range(3):
                with pytest.raises(UnknownSubjectError):
                    await events.publish("a.b", {}, subject="nobody.listens")
            assert asked == ["subjects"]
            if broker.is_mock:
                await broker.passes(REREAD_EVERY + 1)
                with pytest.raises(UnknownSubjectError):
                    await events.publish("a.b", {}, subject="nobody.listens")
                assert asked == ["subjects"] * 2


async def test_while_nats_is_away_no_subject_is_refused(sqlite_url: str, broker: Broker) -> None:
    async with database(sqlite_url) as (_, sessions):
        under_test = relaying(config(broker.url), sessions, broker)
        async with under_test, sessions() as session:
            await eventually(lambda: under_test.topology.problem is None)
            broker.kill()
            await eventually(lambda: not under_test.connection.connected)
            events = under_test.publisher(session)
            assert (await events.publish("a.b", {}, subject="nobody.knows")).success
            assert (await events.publish("a.b", {}, subject="nobody.knows")).success
            await session.rollback()


async def test_who_may_not_add_subjects_is_told_of_a_destination_that_is_not_there(
    sqlite_url: str, broker: Broker
) -> None:
    async with database(sqlite_url) as (_, sessions):
        async with relaying(config(broker.url), sessions, broker) as owner:
            await eventually(lambda: owner.topology.problem is None)
        under_test = relaying(config(broker.url, auto_provision=False), sessions, broker)
        async with under_test, sessions() as session:
            await eventually(lambda: under_test.topology.problem is None)
            events = under_test.publisher(session)
            assert (await events.publish("a.b", {})).success
            with pytest.raises(UnknownSubjectError, match=r"sync\.shipping"):
                await events.publish("a.b", {}, destination="shipping")
            await session.rollback()


async def test_subjects_that_are_not_remembered_any_more_are_still_right(
    sqlite_url: str, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "REMEMBERED", 1)
    async with database(sqlite_url) as (_, sessions):
        under_test = relaying(config(broker.url), sessions, broker)
        async with under_test, sessions() as session:
            await eventually(lambda: under_test.topology.problem is None)
            events = under_test.publisher(session)
            for destination in ("billing", "shipping", "billing"):
                assert (await events.publish("a.b", {}, destination=destination)).success
            with pytest.raises(UnknownSubjectError):
                await events.publish("a.b", {}, subject="nobody.listens")
            await session.rollback()
