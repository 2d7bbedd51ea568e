"""Publishing without the outbox: what is tried again, for how long, and what the caller is told."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from jetstream_bridge import Bridge, Delays, Exponential, Linear
from jetstream_bridge.core.errors import PublishError, PublishRefusedError, PublishUnavailableError
from tests.bridge.support import Sessions, config, database
from tests.brokers import Broker, MockBroker
from tests.outbox.test_publisher import bridge, sessions
from tests.outbox.test_publisher_batch import direct, mock
from tests.outbox.test_relay import ids, listening, stored
from tests.waiting import eventually

__all__ = ["mock", "sessions"]  # fixtures


async def test_an_event_is_sent_at_once_and_the_answer_told(
    sessions: Sessions, broker: Broker
) -> None:
    async with direct(sessions, broker) as under_test, sessions() as session:
        events = under_test.publisher(session)
        first = await events.publish("order.placed", {"id": 1}, event_id="mine")
        again = await events.publish("order.placed", {"id": 1}, event_id="mine")
        await session.rollback()
        assert (first.success, first.duplicate) == (True, False)
        assert (again.success, again.duplicate) == (True, True)
        assert first.raise_on_failure() is first
        [message] = await stored(broker)
        assert message.headers == {"Nats-Msg-Id": "mine"}


async def test_an_event_that_was_dropped_for_anothers_with_its_id_is_a_failure(
    sessions: Sessions, broker: Broker
) -> None:
    async with direct(sessions, broker) as under_test, sessions() as session:
        client = await broker.connect()
        theirs = {"Nats-Msg-Id": "request-42"}
        await client.jetstream().publish("test.billing.sync.orders", b"{}", headers=theirs)
        events = under_test.publisher(session)
        lost = await events.publish("order.placed", {"id": 1}, event_id="request-42")
        other = await events.publish("order.placed", {"id": 1}, event_id="request-43")
        assert (lost.success, other.success) == (False, True)
        assert isinstance(lost.error, PublishRefusedError)
        assert "number 1 on 'test.billing.sync.orders'" in str(lost.error)
        assert "an id of its own" in str(lost.error)


async def test_gem_peers_get_the_id_in_lower_case(sessions: Sessions, broker: Broker) -> None:
    async with direct(sessions, broker, gem_peer=True) as under_test, sessions() as session:
        await under_test.publisher(session).publish("order.placed", {"id": 1}, event_id="mine")
        [message] = await stored(broker)
        assert message.headers == {"nats-msg-id": "mine"}


async def test_without_nats_the_tries_and_the_last_reason_are_told(sessions: Sessions) -> None:
    under_test = bridge(sessions, use_outbox=False, publish_retry=Delays([0.01, 0.01], jitter=0))
    async with sessions() as session:
        result = await under_test.publisher(session).publish("order.placed", {}, event_id="mine")
    assert not result.success
    error = result.error
    assert isinstance(error, PublishUnavailableError)
    assert (error.event_id, error.subject, error.tries) == ("mine", result.subject, 3)
    assert re.search(r"mine was not stored after 3 tries in \d\.\d s: not connected", str(error))
    with pytest.raises(PublishError):
        result.raise_on_failure()


async def test_a_connection_that_comes_back_in_time_is_enough(
    sessions: Sessions, mock: MockBroker
) -> None:
    async with direct(sessions, mock) as under_test, sessions() as session:
        mock.kill()
        await eventually(lambda: not under_test.connection.connected)
        publishing = asyncio.create_task(
            under_test.publisher(session, retry=Linear(base=1, attempts=10)).publish("a.b", {})
        )
        await mock.passes(0.5)
        mock.start()
        result = await publishing
        assert result.success
        assert await ids(mock) == [result.event_id]


async def test_a_server_that_is_restarted_costs_a_try_and_no_event(
    sessions: Sessions, broker: Broker
) -> None:
    async with direct(sessions, broker) as under_test, sessions() as session:
        broker.kill()
        broker.start()
        events = under_test.publisher(session, retry=Exponential(base="200ms", attempts=12))
        result = await events.publish("a.b", {}, event_id="mine")
        assert result.success, result.error
        assert await ids(broker) == ["mine"]


async def test_an_answer_that_is_lost_makes_no_second_message_and_no_duplicate(
    sessions: Sessions, mock: MockBroker
) -> None:
    async with direct(sessions, mock) as under_test, sessions() as session:
        mock.server.faults.lose_ack()
        result = await under_test.publisher(session).publish("a.b", {}, event_id="mine")
        assert result.success
        assert not result.duplicate, "it is this very event that the first try stored"
        assert mock.server.faults.pending == []
        assert await ids(mock) == ["mine"]


async def test_an_outcome_that_stays_unknown_is_not_called_a_loss(
    sessions: Sessions, mock: MockBroker
) -> None:
    async with direct(sessions, mock) as under_test, sessions() as session:
        mock.server.faults.lose_ack(times=100)
        result = await under_test.publisher(session).publish("a.b", {}, event_id="mine")
        assert "mine was not confirmed after" in str(result.error)
        assert "no acknowledgement within 2 s" in str(result.error)
        assert await ids(mock) == ["mine"]


async def test_all_tries_together_end_within_the_limit(
    sessions: Sessions, mock: MockBroker
) -> None:
    async with (
        direct(
            sessions, mock, publish_limit=10.0, publish_retry=Linear(base=1, step=0, jitter=0)
        ) as under_test,
        sessions() as session,
    ):
        mock.server.faults.lose_ack(times=100)
        started = mock.clock.time
        result = await under_test.publisher(session).publish("a.b", {})
        assert isinstance(result.error, PublishUnavailableError)
        assert result.error.tries == 3, "2 s each with 1 s between; a fourth would end after 11 s"
        assert mock.clock.time - started == pytest.approx(8, abs=0.5)


@pytest.mark.parametrize("err_code", [10008, 10077])
async def test_a_refusal_for_the_servers_own_reasons_is_tried_again(
    sessions: Sessions, mock: MockBroker, err_code: int
) -> None:
    async with direct(sessions, mock) as under_test, sessions() as session:
        mock.server.faults.refuse_publish(err_code, times=2)
        assert (await under_test.publisher(session).publish("a.b", {})).success


async def test_a_refusal_of_the_event_itself_is_final(sessions: Sessions, mock: MockBroker) -> None:
    async with direct(sessions, mock) as under_test, sessions() as session:
        mock.server.faults.refuse_publish(10060)
        started = mock.clock.time
        result = await under_test.publisher(session).publish("a.b", {}, event_id="mine")
        assert isinstance(result.error, PublishRefusedError)
        assert (result.error.tries, result.error.event_id) == (1, "mine")
        assert "the event mine was refused: expected stream does not match" in str(result.error)
        assert mock.clock.time == pytest.approx(started, abs=0.2)


async def test_a_destination_that_is_new_gets_its_subject_at_the_first_try(
    sessions: Sessions, broker: Broker
) -> None:
    async with (
        direct(sessions, broker, publish_retry=Linear(attempts=1)) as under_test,
        sessions() as session,
    ):
        result = await under_test.publisher(session).publish("a.b", {}, destination="shipping")
        assert result.success, result.error
        [message] = await stored(broker)
        assert message.subject == "test.orders.sync.shipping"


async def test_a_subject_that_turns_out_to_be_nobodys_is_refused_with_its_followers(
    sessions: Sessions, broker: Broker
) -> None:
    """Nothing was known of the stream when they were accepted, since NATS was not there yet."""
    settings = config(broker.url, use_outbox=False)
    async with (
        Bridge(settings, sessions, make_client=broker.make_client) as under_test,
        sessions() as session,
    ):
        async with under_test.publisher(session, retry=Linear(base=0.2)).publish_batch() as batch:
            batch.add("a.b", {"id": 1}, subject="nobody.listens")
            batch.add("a.b", {"id": 1}, subject="nobody.listens")
            batch.add("a.b", {"id": 1, "n": 3})
        assert [r.success for r in batch.result] == [False, False, True]
        for failed in batch.result.failed:
            assert isinstance(failed.error, PublishRefusedError)
            assert "no stream listens on nobody.listens" in str(failed.error)
        [message] = await stored(broker)
        assert json.loads(message.data or b"")["payload"] == {"id": 1, "n": 3}


async def test_a_stream_that_is_gone_is_waited_for(sessions: Sessions, mock: MockBroker) -> None:
    async with (
        direct(sessions, mock, auto_provision=True) as under_test,
        sessions() as session,
    ):
        mock.server.drop_stream("test-jetstream-bridge-stream")
        mock.server.faults.ignore_api(times=1)
        result = await under_test.publisher(session).publish("a.b", {}, event_id="mine")
        assert result.success, result.error
        assert await ids(mock) == ["mine"]


async def test_a_subscriber_to_everything_hides_no_missing_stream(
    sessions: Sessions, broker: Broker
) -> None:
    async with (
        direct(sessions, broker, auto_provision=True) as under_test,
        listening(broker),
        sessions() as session,
    ):
        await eventually(lambda: under_test.topology.problem is None)
        client = await broker.connect()
        await client.jetstream().delete_stream("test-jetstream-bridge-stream")
        await client.close()
        result = await under_test.publisher(session).publish("a.b", {}, event_id="mine")
        assert result.success, result.error
        assert await ids(broker) == ["mine"]


async def test_a_large_batch_has_more_time(sqlite_url: str, mock: MockBroker) -> None:
    """The limit is meant for 1,000 events; one resource of 2,500 in a row has thrice as long."""
    async with (
        database(sqlite_url) as (_, sessions),
        direct(sessions, mock, publish_limit=4.0) as under_test,
        sessions() as session,
    ):
        mock.server.faults.slow("3ms")
        started = mock.clock.time
        async with under_test.publisher(session).publish_batch() as batch:
            for number in range(2500):
                batch.add("a.b", {"id": 1, "n": number})
        assert batch.result.success
        assert mock.clock.time - started > 4
