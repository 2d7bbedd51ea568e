"""Publishing: what the caller is told, and what is refused before anything is written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.bridge import Bridge, BridgeConfig, ConnectionOptions
from app.bridge.errors import InvalidEventError, InvalidSubjectError
from tests.bridge.support import Sessions, config, database, rows
from tests.bridge.test_relay import stored
from tests.brokers import Broker

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


async def test_without_the_outbox_an_event_is_sent_at_once_and_the_answer_told(
    sessions: Sessions, broker: Broker
) -> None:
    under_test = Bridge(
        config(broker.url, use_outbox=False), sessions, make_client=broker.make_client
    )
    async with under_test:
        await under_test.connection.wait_connected(5)
        await under_test.topology.ensure()
        async with sessions() as session:
            events = under_test.publisher(session)
            first = await events.publish("order.placed", {"id": 1}, event_id="mine")
            again = await events.publish("order.placed", {"id": 1}, event_id="mine")
            await session.rollback()
        assert (first.success, first.duplicate) == (True, False)
        assert (again.success, again.duplicate) == (True, True)
        [message] = await stored(broker)
        assert message.headers == {"Nats-Msg-Id": "mine"}
        nowhere = await events.publish("order.placed", {"id": 1}, subject="nobody.listens")
        assert not nowhere.success
        assert "nobody.listens" in (nowhere.error or "")


async def test_without_the_outbox_and_without_nats_the_failure_is_told(
    sessions: Sessions,
) -> None:
    under_test = bridge(sessions, use_outbox=False)
    async with sessions() as session:
        result = await under_test.publisher(session).publish("order.placed", {"id": 1})
    assert not result.success
    assert result.error == "not connected to NATS"
