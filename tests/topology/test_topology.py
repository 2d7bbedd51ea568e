"""Streams and consumers: only added to, shared without loss, never made anew."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from jetstream_bridge.core.config import BridgeConfig, ConnectionOptions
from jetstream_bridge.core.errors import (
    ConsumerMissingError,
    InvalidSubjectError,
    NatsConnectionError,
    NoRespondersError,
    PermissionDeniedError,
    StreamMissingError,
    TopologyError,
)
from jetstream_bridge.nats.connection import Connection
from jetstream_bridge.nats.management import StreamApi
from jetstream_bridge.operations.inspection import Inspection
from jetstream_bridge.testing.servers import NatsServer
from jetstream_bridge.topology.durable_names import durable_spec
from jetstream_bridge.topology.durables import Durables
from jetstream_bridge.topology.plan import Conflict, new_stream
from jetstream_bridge.topology.provisioning import Topology
from jetstream_bridge.topology.stream_faults import stream_fault
from tests.brokers import Broker, MockBroker, RealBroker, on_nats_server

ORDERS = BridgeConfig(app_name="orders", destination_app="billing", env="test")
BILLING = BridgeConfig(app_name="billing", destination_app="orders", env="test")
STREAM = "test-jetstream-bridge-stream"
SUBJECTS = ["test.orders.sync.billing", "test.billing.sync.orders", "test.orders.sync.dlq"]
# A server's configuration: whoever logs in without a name is this user.
ANYBODY = "authorization { users: [{ user: anybody, password: any%s }] }\nno_auth_user: anybody"


class Service:
    """A service's end: its connection, and requests of its own to look and to interfere."""

    def __init__(self, connection: Connection, config: BridgeConfig) -> None:
        self.connection = connection
        self.config = config
        self.asked: list[str] = []
        self.api = StreamApi(connection)

    def topology(
        self, *, sources: Sequence[str] = (), consume: bool = False, **changes: Any
    ) -> Topology:
        config = replace(self.config, **changes)
        read = (None, *sources) if consume or sources else ()
        return Topology(self, config, durables=[durable_spec(config, source) for source in read])

    async def request(self, subject: str, payload: bytes = b"", *, timeout: float) -> Any:
        self.asked.append(subject.removeprefix("$JS.API."))
        return await self.connection.request(subject, payload, timeout=timeout)

    @property
    def writes(self) -> list[str]:
        return [s for s in self.asked if any(w in s for w in ("CREATE", "UPDATE", "DELETE"))]

    async def publish(self, subject: str) -> dict[str, Any]:
        answer = await self.connection.request(subject, b"{}", timeout=10)
        acknowledged: dict[str, Any] = json.loads(answer.data)
        return acknowledged

    async def pull_one(self, durable: str, *, ack: bool = False) -> None:
        """Have one message delivered, and acknowledge it if `ack`."""
        client = await self.connection.wait_connected(20)
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox)
        await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{durable}", b"1", reply=inbox)
        message = await subscription.next_msg(10)
        if ack:
            await message.ack_sync(timeout=10)


@contextlib.asynccontextmanager
async def service(
    broker: Broker, config: BridgeConfig = ORDERS, **options: Any
) -> AsyncIterator[Service]:
    connection = Connection(
        ConnectionOptions(urls=(broker.url,), **options),
        name=config.app_name,
        inbox_prefix=f"_INBOX_{config.app_name}",
        make_client=broker.make_client,
    )
    await connection.start()
    try:
        await connection.wait_connected(10)
        yield Service(connection, config)
    finally:
        await connection.close(timeout=3)


def deny_publish(broker: Broker, subject: str) -> None:
    """Take a right from everybody, before anybody connects."""
    if isinstance(broker, MockBroker):
        broker.server.faults.deny_publish(subject)
    elif isinstance(broker, RealBroker):
        broker.server.config = ANYBODY % f', permissions: {{ publish: {{ deny: "{subject}" }} }}'
        broker.server.restart()


def permit_all(broker: Broker) -> None:
    if isinstance(broker, MockBroker):
        broker.server.faults.clear()
    elif isinstance(broker, RealBroker):
        broker.server.reload(ANYBODY % "")


@pytest.fixture
async def orders(broker: Broker) -> AsyncIterator[Service]:
    async with service(broker) as orders:
        yield orders


# --- the stream


async def test_an_absent_stream_is_made_as_the_wire_format_says(orders: Service) -> None:
    topology = orders.topology()
    assert topology.problem == f"stream {STREAM} was not looked at yet"
    plan = await topology.ensure()
    stream = await orders.api.stream(STREAM)
    assert stream is not None
    assert stream["retention"] == "workqueue"
    assert stream["storage"] == "file"
    assert stream["subjects"] == SUBJECTS
    assert stream["num_replicas"] == 1
    assert stream["duplicate_window"] == 120_000_000_000
    assert topology.problem is None
    assert len(plan.changes) == 1
    assert plan.changes[0].startswith(f"create stream {STREAM}")
    assert (await orders.publish(SUBJECTS[0]))["stream"] == STREAM


async def test_settings_of_the_stream_reach_it(orders: Service) -> None:
    topology = orders.topology(
        stream_name="own",
        retention="limits",
        max_age=60.0,
        max_bytes=1_000_000,
        duplicate_window=300.0,
        use_dlq=False,
    )
    await topology.ensure()
    stream = await orders.api.stream("own")
    assert stream is not None
    assert stream["retention"] == "limits"
    assert stream["max_age"] == 60_000_000_000
    assert stream["max_bytes"] == 1_000_000
    assert stream["duplicate_window"] == 60_000_000_000  # no longer than the messages live
    assert stream["subjects"] == SUBJECTS[:2]


async def test_a_full_work_queue_refuses_instead_of_dropping_events(orders: Service) -> None:
    await orders.topology(max_bytes=1_000_000).ensure()
    stream = await orders.api.stream(STREAM)
    assert stream is not None
    assert stream["discard"] == "new"


async def test_a_stream_that_has_all_is_not_written(orders: Service) -> None:
    await orders.topology().ensure()
    orders.asked.clear()
    plan = await orders.topology().ensure()
    assert plan.empty
    assert plan.lines() == [f"stream {STREAM} is as this service needs it"]
    assert orders.writes == []


async def test_a_wildcard_that_covers_the_subjects_is_enough(orders: Service) -> None:
    await orders.api.create_stream(new_stream(ORDERS, ["test.*.sync.*"]))
    topology = orders.topology()
    assert (await topology.ensure()).empty
    assert topology.problem is None
    assert orders.writes == []


@pytest.mark.parametrize("first", [ORDERS, BILLING])
async def test_the_second_service_adds_its_subjects_and_keeps_the_first_ones(
    broker: Broker, first: BridgeConfig
) -> None:
    second = BILLING if first is ORDERS else ORDERS
    async with service(broker, first) as one, service(broker, second) as two:
        await one.topology().ensure()
        plan = await two.topology().ensure()
        assert plan.changes == (f"add subject test.{second.app_name}.sync.dlq to stream {STREAM}",)
        stream = await one.api.stream(STREAM)
        assert stream is not None
        assert set(stream["subjects"]) == {*SUBJECTS, "test.billing.sync.dlq"}
        assert (await one.topology().ensure()).empty


@on_nats_server
async def test_adding_a_subject_leaves_every_other_field_as_it_was(orders: Service) -> None:
    theirs = new_stream(ORDERS, ["test.orders.sync.billing"]) | {
        "description": "made by hand",
        "max_age": 3_600_000_000_000,
        "max_msg_size": 500_000,
        "duplicate_window": 60_000_000_000,
        "allow_direct": True,
        "allow_msg_ttl": True,
        "allow_atomic": True,
        "compression": "s2",
        "metadata": {"team": "billing"},
        "deny_delete": True,
    }
    before = await orders.api.create_stream(theirs)
    plan = await orders.topology().ensure()
    after = await orders.api.stream(STREAM)
    assert after is not None
    assert after["subjects"] == SUBJECTS
    assert after | {"subjects": None} == before | {"subjects": None}
    assert f"stream {STREAM}: max_age is 1h and not unlimited; left as it is" in plan.differences
    assert f"stream {STREAM}: duplicate_window is 1m and not 2m; left as it is" in plan.differences


@on_nats_server
@pytest.mark.parametrize("retention", ["limits", "interest"])
async def test_another_retention_is_told_and_left_and_subjects_are_added_all_the_same(
    orders: Service, retention: str, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = new_stream(ORDERS, ["test.orders.sync.billing"]) | {"retention": retention}
    await orders.api.create_stream(theirs)
    topology = orders.topology()
    plan = await topology.ensure()
    stream = await orders.api.stream(STREAM)
    assert stream is not None
    assert stream["retention"] == retention
    assert stream["subjects"] == SUBJECTS
    assert f"retention is {retention} and not workqueue; left as it is" in plan.differences[0]
    assert "retention cannot change" in caplog.text
    assert (topology.problem is None) == (retention == "limits")


async def test_memory_storage_is_told_and_left(orders: Service) -> None:
    await orders.api.create_stream(new_stream(ORDERS, ["other"]) | {"storage": "memory"})
    plan = await orders.topology().ensure()
    assert plan.differences == (f"stream {STREAM}: storage is memory and not file; left as it is",)


async def test_a_stream_that_confirms_nothing_is_a_problem(orders: Service) -> None:
    await orders.api.create_stream(new_stream(ORDERS, ["other"]) | {"no_ack": True})
    topology = orders.topology()
    await topology.ensure()
    assert "no_ack" in (topology.problem or "")


ON_BOTH: list[tuple[dict[str, Any], str]] = [
    ({"max_msgs_per_subject": 5}, "set max_msgs_per_subject to -1"),
    ({"max_msgs": 5}, "set discard to new"),
    ({"max_bytes": 5000}, "set discard to new"),
]
ON_A_SERVER: list[tuple[dict[str, Any], str]] = [
    ({"retention": "interest"}, "make it anew"),
    ({"subject_transform": {"src": "test.*.sync.*", "dest": "x.{{wildcard(1)}}"}}, "remove the"),
    ({"consumer_limits": {"inactive_threshold": 60_000_000_000}}, "unset inactive_threshold"),
    ({"allow_msg_counter": True, "retention": "limits"}, "use another NATS_STREAM"),
]


@pytest.mark.parametrize(("rule", "remedy"), ON_BOTH)
async def test_a_stream_that_throws_events_away_is_a_problem_until_it_does_not(
    orders: Service, rule: dict[str, Any], remedy: str
) -> None:
    sound = new_stream(ORDERS, SUBJECTS)
    await orders.api.create_stream(sound | rule)
    topology = orders.topology()
    await topology.ensure()
    assert remedy in (topology.problem or "")
    seen = Inspection(orders.connection, ORDERS, [])
    assert remedy in (await seen.stream_problem() or "")
    await orders.api.update_stream(sound | rule | {"discard": "new"} | {"max_msgs_per_subject": -1})
    await topology.ensure()
    assert topology.problem is None


@on_nats_server
@pytest.mark.parametrize(("rule", "remedy"), ON_A_SERVER)
async def test_a_stream_that_keeps_events_from_their_reader_is_a_problem(
    orders: Service, rule: dict[str, Any], remedy: str
) -> None:
    await orders.api.create_stream(new_stream(ORDERS, SUBJECTS) | rule)
    topology = orders.topology()
    await topology.ensure()
    assert remedy in (topology.problem or "")


@pytest.mark.parametrize(
    "rule",
    [
        {"max_msgs_per_subject": 5, "discard": "new", "discard_new_per_subject": True},
        {"max_msgs": 5, "discard": "new"},
        {"max_msgs": 5, "retention": "limits"},
        {"subject_transform": {"src": "other.>", "dest": "x.>"}},
        {"consumer_limits": {"max_ack_pending": 1000}},
    ],
)
def test_a_rule_that_loses_nothing_unread_is_no_fault(rule: dict[str, Any]) -> None:
    assert stream_fault(STREAM, new_stream(ORDERS, SUBJECTS) | rule, SUBJECTS) is None


async def test_further_sources_and_extra_subjects_are_added(orders: Service) -> None:
    topology = orders.topology(sources=["crm"])
    await topology.ensure(extra_subjects=["test.orders.sync.audit"])
    expected = [*SUBJECTS, "test.crm.sync.orders", "test.orders.sync.audit"]
    assert await topology.subjects() == expected
    with pytest.raises(InvalidSubjectError):
        await topology.ensure(extra_subjects=["test.orders.>"])


# --- subjects that others own


async def test_a_needed_subject_of_another_stream_is_skipped_named_and_fails_readiness(
    orders: Service,
) -> None:
    theirs = new_stream(replace(ORDERS, stream_name="theirs"), ["test.billing.>"])
    await orders.api.create_stream(theirs)
    topology = orders.topology()
    plan = await topology.ensure()
    assert plan.conflicts == (Conflict("test.billing.sync.orders", "theirs", needed=True),)
    assert plan.blocked == plan.conflicts
    assert not plan.empty
    assert topology.problem is not None
    assert "test.billing.sync.orders, which this service needs, is owned by stream theirs" in (
        topology.problem
    )
    assert await topology.subjects() == [SUBJECTS[0], SUBJECTS[2]]
    # Once they let go of it, it is taken.
    await orders.api.update_stream({**theirs, "subjects": ["test.elsewhere"]})
    await topology.ensure()
    assert topology.problem is None


async def test_an_extra_subject_of_another_stream_is_named_and_harms_nothing(
    orders: Service,
) -> None:
    theirs = new_stream(replace(ORDERS, stream_name="theirs"), ["test.orders.sync.audit"])
    await orders.api.create_stream(theirs)
    topology = orders.topology()
    plan = await topology.ensure(extra_subjects=["test.orders.sync.audit"])
    assert plan.conflicts == (Conflict("test.orders.sync.audit", "theirs", needed=False),)
    assert topology.problem is None
    assert "! subject test.orders.sync.audit is owned by stream theirs; skipped" in plan.lines()


async def test_when_all_subjects_are_taken_no_stream_is_made(orders: Service) -> None:
    theirs = new_stream(replace(ORDERS, stream_name="theirs"), ["test.>"])
    await orders.api.create_stream(theirs)
    topology = orders.topology()
    plan = await topology.ensure()
    assert len(plan.blocked) == 3
    assert await orders.api.stream(STREAM) is None
    assert "owned by stream theirs" in (topology.problem or "")


async def test_a_prefix_of_a_wildcard_is_not_taken_for_an_overlap(orders: Service) -> None:
    theirs = new_stream(replace(ORDERS, stream_name="theirs"), ["test.orders.sync.billing.>"])
    await orders.api.create_stream(theirs)
    topology = orders.topology()
    await topology.ensure()
    assert topology.problem is None


# --- races


async def test_two_services_that_start_at_once_both_come_up_twenty_times_over(
    broker: Broker,
) -> None:
    async with service(broker, ORDERS) as one, service(broker, BILLING) as two:
        for round_ in range(20):
            env = f"round{round_}"
            topologies = [one.topology(env=env), two.topology(env=env)]
            await asyncio.gather(*(topology.ensure() for topology in topologies))
            assert [topology.problem for topology in topologies] == [None, None]
            assert set(await topologies[0].subjects()) == {
                f"{env}.orders.sync.billing",
                f"{env}.billing.sync.orders",
                f"{env}.orders.sync.dlq",
                f"{env}.billing.sync.dlq",
            }
        names = await one.api.streams_with(">")
        assert sorted(names) == sorted(f"round{n}-jetstream-bridge-stream" for n in range(20))


async def test_four_services_with_different_subjects_lose_none_of_them(
    broker: Broker,
) -> None:
    configs = [
        BridgeConfig(app_name=f"app{n}", destination_app=f"peer{n}", env="test") for n in range(4)
    ]
    async with contextlib.AsyncExitStack() as stack:
        services = [await stack.enter_async_context(service(broker, config)) for config in configs]
        for round_ in range(20):
            env = f"round{round_}"
            topologies = [one.topology(env=env, consume=True) for one in services]
            await asyncio.gather(*(topology.ensure() for topology in topologies))
            await asyncio.gather(*(topology.ensure_consumer(None) for topology in topologies))
            assert [topology.problem for topology in topologies] == [None] * 4
            subjects = await topologies[0].subjects()
            assert len(subjects) == 12
            assert set(subjects) == {s for topology in topologies for s in topology.needed}


async def test_ensures_of_one_process_do_not_race_each_other(orders: Service) -> None:
    topology = orders.topology(consume=True)
    extra = [f"test.orders.sync.peer{number}" for number in range(10)]
    await asyncio.gather(*(topology.ensure(extra_subjects=[subject]) for subject in extra))
    await asyncio.gather(*(topology.ensure_consumer() for _ in range(5)))
    assert set(await topology.subjects()) == {*SUBJECTS, *extra}
    assert sum("CONSUMER.DURABLE.CREATE" in write for write in orders.writes) == 1


async def test_subjects_that_never_stay_end_as_a_problem_and_not_in_a_loop(
    orders: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await orders.api.create_stream(new_stream(ORDERS, ["other"]))

    async def lost(self: StreamApi, config: dict[str, Any]) -> dict[str, Any]:
        return config

    monkeypatch.setattr(StreamApi, "update_stream", lost)
    topology = Topology(orders, ORDERS, settle_limit=0.5)
    await topology.ensure()
    assert "kept changing" in (topology.problem or "")


async def test_a_refusal_of_the_server_is_a_problem_and_no_crash(orders: Service) -> None:
    topology = orders.topology(stream_replicas=3)  # a single server cannot
    await topology.ensure()
    assert "replicas > 1 not supported in non-clustered mode" in (topology.problem or "")


# --- planning


async def test_plan_says_what_would_be_done_and_does_nothing(orders: Service) -> None:
    topology = orders.topology(sources=["crm"], consume=True)
    plan = await topology.plan()
    assert not plan.empty
    assert plan.lines() == [
        f"+ create stream {STREAM} (workqueue, file, 1 replica(s)) with subjects "
        f"{', '.join([*SUBJECTS, 'test.crm.sync.orders'])}",
        "+ create consumer test-orders-workers for subject test.billing.sync.orders",
        "+ create consumer test-orders-workers-crm for subject test.crm.sync.orders",
    ]
    assert orders.writes == []
    await topology.ensure()
    await topology.ensure_consumer()
    await topology.ensure_consumer("crm")
    assert (await topology.plan()).empty
    other = orders.topology(consume=True, ack_wait=10.0)
    changes = (await other.plan()).changes
    assert changes == ("update consumer test-orders-workers: ack_wait 30s -> 10s",)


# --- consumers


async def test_a_consumer_is_made_as_the_wire_format_says(orders: Service) -> None:
    topology = orders.topology(consume=True)
    await topology.ensure()
    info = await topology.ensure_consumer()
    assert info is not None
    assert info.name == "test-orders-workers"
    assert info.config.filter_subject == "test.billing.sync.orders"
    assert info.config.ack_policy == "explicit"
    assert info.config.deliver_policy == "all"
    assert info.config.ack_wait == 30
    assert info.config.max_deliver == -1
    assert info.config.max_ack_pending == ORDERS.max_ack_pending
    assert info.config.backoff is None
    assert info.config.deliver_subject is None
    assert topology.problem is None


async def test_a_consumer_that_is_as_it_should_be_is_not_touched(orders: Service) -> None:
    topology = orders.topology(consume=True)
    await topology.ensure()
    first = await topology.ensure_consumer()
    orders.asked.clear()
    second = await orders.topology(consume=True).ensure_consumer()
    assert orders.asked == [f"CONSUMER.INFO.{STREAM}.test-orders-workers"]
    assert first is not None
    assert second is not None
    assert first.created == second.created


@on_nats_server
async def test_a_consumer_that_differs_is_updated_in_place_and_keeps_its_state(
    orders: Service,
) -> None:
    await orders.topology().ensure()
    theirs = {
        "durable_name": "test-orders-workers",
        "ack_policy": "explicit",
        "deliver_policy": "all",
        "filter_subject": "test.billing.sync.orders",
        "max_deliver": 10,
        "backoff": [1_000_000, 5_000_000],
        "max_waiting": 64,
        "description": "made by hand",
    }
    await orders.api.put_consumer(STREAM, theirs)
    await orders.publish("test.billing.sync.orders")
    await orders.pull_one("test-orders-workers", ack=True)  # in nobody's hands: free to be updated
    before = await orders.api.consumer(STREAM, "test-orders-workers")
    info = await orders.topology().ensure_consumer()
    after = await orders.api.consumer(STREAM, "test-orders-workers")
    assert info is not None
    assert before is not None
    assert after is not None
    assert after["created"] == before["created"]
    assert after["delivered"]["consumer_seq"] == before["delivered"]["consumer_seq"] == 1
    assert info.config.ack_wait == 30
    assert info.config.max_deliver == -1
    assert info.config.backoff is None
    assert info.config.max_waiting == 64
    assert info.config.description == "made by hand"


@on_nats_server
async def test_a_difference_that_cannot_be_updated_makes_a_work_queue_consumer_anew_once(
    orders: Service,
) -> None:
    await orders.topology().ensure()
    push = {
        "durable_name": "test-orders-workers",
        "ack_policy": "explicit",
        "deliver_policy": "all",
        "deliver_subject": "somewhere",
        "filter_subject": "test.billing.sync.orders",
    }
    await orders.api.put_consumer(STREAM, push)
    await orders.publish("test.billing.sync.orders")
    topology = orders.topology()
    info = await topology.ensure_consumer()
    assert info is not None
    assert info.config.deliver_subject is None
    assert info.num_pending == 1
    orders.asked.clear()
    await topology.ensure_consumer()
    assert orders.writes == []


@on_nats_server
async def test_on_a_stream_that_keeps_messages_it_is_left_to_the_operator(orders: Service) -> None:
    topology = orders.topology(retention="limits", max_age=60.0)
    await topology.ensure()
    push = {
        "durable_name": "test-orders-workers",
        "ack_policy": "none",
        "deliver_policy": "new",
        "deliver_subject": "somewhere",
        "filter_subject": "test.billing.sync.orders",
    }
    await orders.api.put_consumer(STREAM, push)
    with pytest.raises(TopologyError, match="delete the consumer"):
        await topology.ensure_consumer()
    assert "cannot be updated" in (topology.problem or "")
    assert not any("DELETE" in write for write in orders.writes)
    await orders.api.delete_consumer(STREAM, "test-orders-workers")
    await topology.ensure_consumer()
    assert topology.problem is None


@pytest.mark.parametrize("theirs", ["test.billing.sync.orders", "test.>", None])
async def test_a_second_reader_of_a_work_queue_subject_is_refused_by_name(
    orders: Service, theirs: str | None
) -> None:
    topology = orders.topology(consume=True)
    await topology.ensure()
    other = {"durable_name": "audit", "ack_policy": "explicit", "deliver_policy": "all"}
    await orders.api.put_consumer(STREAM, other | ({"filter_subject": theirs} if theirs else {}))
    with pytest.raises(TopologyError, match=r"test\.billing\.sync\.orders .* consumer audit"):
        await topology.ensure_consumer()
    assert "consumer audit" in (topology.problem or "")


async def test_a_consumer_without_a_stream_is_a_missing_stream(orders: Service) -> None:
    with pytest.raises(StreamMissingError, match="topology ensure"):
        await orders.topology(consume=True).ensure_consumer()
    assert await orders.topology().subjects() == []


async def test_what_the_server_does_not_take_over_is_noticed(
    orders: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = StreamApi.put_consumer

    async def forgetful(self: StreamApi, stream: str, config: dict[str, Any]) -> dict[str, Any]:
        info = await put(self, stream, config)
        info["config"].pop("filter_subject")
        return info

    monkeypatch.setattr(StreamApi, "put_consumer", forgetful)
    topology = orders.topology()
    await topology.ensure()
    with pytest.raises(TopologyError, match="filter_subject"):
        await Durables(orders.api, ORDERS).ensure(durable_spec(ORDERS, None))


# --- AUTO_PROVISION=false


async def test_without_provisioning_nothing_is_made_and_what_is_missing_is_told(
    orders: Service,
) -> None:
    topology = orders.topology(consume=True, auto_provision=False)
    plan = await topology.ensure()
    assert plan.create
    assert "does not exist, and AUTO_PROVISION is false" in (topology.problem or "")
    with pytest.raises(StreamMissingError):
        await topology.ensure_consumer()
    await orders.api.create_stream(new_stream(ORDERS, SUBJECTS[:2]))
    await topology.ensure()
    assert "lacks test.orders.sync.dlq" in (topology.problem or "")
    with pytest.raises(ConsumerMissingError, match="AUTO_PROVISION is false"):
        await topology.ensure_consumer()
    assert orders.writes == []

    await orders.topology().ensure()
    await orders.topology().ensure_consumer()
    orders.asked.clear()
    assert (await topology.ensure()).empty
    assert await topology.ensure_consumer() is not None
    assert topology.problem is None
    assert orders.writes == []


async def test_without_provisioning_a_different_consumer_is_used_as_it_is(
    orders: Service, caplog: pytest.LogCaptureFixture
) -> None:
    await orders.topology().ensure()
    await orders.topology(ack_wait=10.0).ensure_consumer()
    orders.asked.clear()
    info = await orders.topology(auto_provision=False).ensure_consumer()
    assert info is not None
    assert info.config.ack_wait == 10
    assert "ack_wait 10s -> 30s" in caplog.text
    assert orders.writes == []


async def test_without_provisioning_a_consumer_of_other_subjects_is_refused(
    orders: Service,
) -> None:
    await orders.topology().ensure()
    theirs = {
        "durable_name": "test-orders-workers",
        "ack_policy": "explicit",
        "filter_subject": "test.orders.sync.dlq",
    }
    await orders.api.put_consumer(STREAM, theirs)
    with pytest.raises(TopologyError, match="correct its filter"):
        await orders.topology(auto_provision=False).ensure_consumer()


async def test_without_provisioning_one_question_each_is_enough(orders: Service) -> None:
    await orders.topology().ensure()
    await orders.topology().ensure_consumer()
    orders.asked.clear()
    topology = orders.topology(auto_provision=False)
    await topology.ensure()
    await topology.ensure_consumer()
    assert orders.asked == [f"STREAM.INFO.{STREAM}", f"CONSUMER.INFO.{STREAM}.test-orders-workers"]


async def test_without_provisioning_the_owner_of_a_subject_is_still_named(
    orders: Service,
) -> None:
    await orders.api.create_stream({"name": "THEIRS", "subjects": ["test.orders.sync.dlq"]})
    await orders.api.create_stream(new_stream(ORDERS, SUBJECTS[:2]))
    topology = orders.topology(auto_provision=False)
    await topology.ensure()
    assert "test.orders.sync.dlq" in (topology.problem or "")
    assert "is owned by stream THEIRS" in (topology.problem or "")


async def test_a_user_who_may_not_look_binds_unseen_and_is_told_so(broker: Broker) -> None:
    deny_publish(broker, "$JS.API.>")
    async with service(broker) as orders:
        topology = orders.topology(consume=True, auto_provision=False)
        await topology.ensure()
        assert await topology.ensure_consumer() is None
        assert f"$JS.API.STREAM.INFO.{STREAM}" in (topology.problem or "")
        assert f"$JS.API.CONSUMER.INFO.{STREAM}.test-orders-workers" in (topology.problem or "")
        provisioning = orders.topology()
        with pytest.raises(PermissionDeniedError):
            await provisioning.ensure()
        assert "set AUTO_PROVISION=false" in (provisioning.problem or "")
        with pytest.raises(PermissionDeniedError):
            await provisioning.ensure_consumer()

        permit_all(broker)
        await provisioning.ensure()
        await provisioning.ensure_consumer()
        await topology.ensure()
        assert topology.problem is None


async def test_a_user_who_may_only_look_at_the_stream_checks_that(broker: Broker) -> None:
    deny_publish(broker, "$JS.API.STREAM.NAMES")
    async with service(broker) as orders:
        topology = orders.topology(auto_provision=False)
        await topology.ensure()
        assert "does not exist" in (topology.problem or "")
        orders.asked.clear()
        await topology.ensure()
        assert orders.asked == [f"STREAM.INFO.{STREAM}"]  # who owns the subjects was refused


# --- without NATS or JetStream


async def test_without_a_connection_it_raises_and_can_be_called_again(
    broker: Broker,
) -> None:
    async with service(broker) as orders:
        topology = orders.topology()
        broker.terminate()
        began = time.monotonic()
        with pytest.raises(NatsConnectionError):
            await topology.ensure()
        assert time.monotonic() - began < 2
        broker.start()
        await orders.connection.wait_connected(20)
        await topology.ensure()
        assert topology.problem is None


@pytest.mark.real
async def test_without_jetstream_it_says_so() -> None:
    with NatsServer(jetstream=False) as server:
        async with service(RealBroker(server)) as orders:
            with pytest.raises(NoRespondersError, match="STREAM"):
                await orders.topology().ensure()
