"""The rights that a service needs: enough for all that it does, and not one too many."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from jetstream_bridge import (
    Bridge,
    BridgeConfig,
    ConnectionOptions,
    Consumers,
    Event,
    Publisher,
    Retry,
    Unrecoverable,
)
from jetstream_bridge.core.errors import PermissionDeniedError, TopologyError
from jetstream_bridge.nats.connection import Connection
from jetstream_bridge.testing.servers import NatsServer
from jetstream_bridge.topology.durable_names import DEAD_LETTERS, DurableSpec, durable_spec
from jetstream_bridge.topology.permissions import Permissions, Right, inbox_prefix, permissions
from jetstream_bridge.topology.provisioning import Topology
from tests.bridge.support import Sessions, config, database, envelope
from tests.waiting import eventually

LOGIN: dict[str, str] = {"user": "orders", "password": "of-orders"}
ADMIN: dict[str, str] = {"user": "admin", "password": "of-admin"}
STREAM = "test-jetstream-bridge-stream"
OUT, IN = "test.orders.sync.billing", "test.billing.sync.orders"
ALL = {"published", "handled", "retried", "extended", "dead-lettered", "acknowledged"}


def orders(url: str = "nats://localhost:4222", **changes: Any) -> BridgeConfig:
    """The settings of the service whose rights these are; it binds only."""
    settings = {
        "connection": ConnectionOptions(urls=(url,), **LOGIN),
        "auto_provision": False,
        "ack_wait": 0.6,
        "publish_timeout": 0.5,
    } | changes
    return config(url, app="orders", peer="billing", **settings)


def durables(config: BridgeConfig, *sources: str) -> tuple[DurableSpec, ...]:
    return tuple(durable_spec(config, source) for source in (None, *sources))


BINDING = permissions(orders(), durables(orders()))
PROVISIONING = permissions(
    orders(auto_provision=True), durables(orders(auto_provision=True)), admin=False
)


# --- what is printed


def test_a_service_that_binds_only_needs_eight_rights() -> None:
    assert (
        BINDING.as_config()
        == (Path(__file__).parent.parent / "vectors" / "binding.conf").read_text()
    )


def test_a_service_with_all_there_is_needs_these_rights() -> None:
    whole = orders(auto_provision=True)
    specs = durables(whole, "audit", DEAD_LETTERS)
    rights = permissions(whole, specs, destinations=("shipping", "billing"), admin=True)
    expected = (Path(__file__).parent.parent / "vectors" / "whole.conf").read_text()
    assert rights.as_config() == expected


def test_a_service_that_only_publishes_needs_no_rights_of_a_consumer() -> None:
    subjects = {right.subject for right in permissions(orders(), ()).publish}
    stream = {f"$JS.API.{request}.{STREAM}" for request in ("STREAM.INFO", "STREAM.MSG.GET")}
    assert subjects == {OUT, *stream}
    without = permissions(replace(orders(), use_outbox=False), ()).publish
    assert not any("MSG.GET" in right.subject for right in without), "it has no relay"


def test_without_dead_letters_their_subject_is_not_allowed() -> None:
    bare = orders(use_dlq=False)
    rights = permissions(bare, durables(bare))
    assert not any(right.subject.endswith(".dlq") for right in rights.publish)


def test_the_same_as_json_has_every_subject_with_its_reason() -> None:
    told = json.loads(json.dumps(BINDING.as_dict()))
    assert [right["subject"] for right in told["publish"]] == [r.subject for r in BINDING.publish]
    assert all(right["reason"] for right in (*told["publish"], *told["subscribe"]))


def test_odd_names_cannot_break_out_of_their_line() -> None:
    odd = replace(orders(), app_name='a"b')
    assert '"test.a\\"b.sync.billing"' in permissions(odd, durables(odd)).as_config()


# --- what it is worth on a server


def account(rights: Permissions | None, *, without: Right | None = None) -> str:
    """A server's configuration: an administrator, and the service with `rights` less one."""
    users = [f"{{ user: {ADMIN['user']}, password: {ADMIN['password']} }}"]
    if rights is not None:
        text = rights.as_config()
        if without is not None:
            assert f'"{without.subject}"\n' in text
            # An empty list would allow everything.
            text = text.replace(f'"{without.subject}"\n', '"nothing"\n')
        login = f"user: {LOGIN['user']}, password: {LOGIN['password']}"
        users.append(f"{{ {login}, {text} }}")
    return f"accounts {{ TEAM {{ jetstream: enabled, users: [{', '.join(users)}] }} }}"


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    """One for all tests of this module: rights change by reloading, the stream is made anew."""
    with NatsServer(config=account(BINDING)) as server:
        yield server


@pytest.fixture
async def admin(server: NatsServer) -> AsyncIterator[Client]:
    """An administrator's client, of an account without a stream."""
    client = await nats.connect(server.url, **ADMIN)
    js = client.jetstream()
    for stream in await js.streams_info():
        await js.delete_stream(stream.config.name or "")
    yield client
    await client.close()


@pytest.fixture
async def sessions(sqlite_url: str) -> AsyncIterator[Sessions]:
    async with database(sqlite_url) as (_, sessions):
        yield sessions


@asynccontextmanager
async def connected(config: BridgeConfig) -> AsyncIterator[Connection]:
    connection = Connection(config.connection, name="test", inbox_prefix=inbox_prefix(config))
    await connection.start()
    try:
        await connection.wait_connected(20)
        yield connection
    finally:
        await connection.close(timeout=2)


async def provision(url: str) -> None:
    """What an administrator's run of `topology ensure` does."""
    settings = orders(url, connection=ConnectionOptions(urls=(url,), **ADMIN), auto_provision=True)
    async with connected(settings) as connection:
        topology = Topology(connection, settings, durables=durables(settings))
        await topology.ensure()
        await topology.ensure_consumer()
        assert topology.problem is None


class Scene:
    """A service with handlers of every kind, and how far it came with their events."""

    def __init__(self, url: str, sessions: Sessions, admin: Client) -> None:
        self._js = admin.jetstream()
        self._seen: set[tuple[str, int]] = set()  # deliveries
        self._finished: set[str] = set()
        self.bridge = Bridge(orders(url), sessions, relay=True, consumers=self._consumers())

    def _consumers(self) -> Consumers:
        consumers = Consumers()

        @consumers.on("item.*")
        async def handle(event: Event[dict[str, Any]], publisher: Publisher) -> None:
            kind = event.type.removeprefix("item.")
            self._seen.add((kind, event.metadata.deliveries))
            if kind == "poison":
                raise Unrecoverable("there is no such item")
            if kind == "flaky" and event.metadata.deliveries == 1:
                raise Retry(delay=0.1)
            if kind == "flaky":
                await self._send("slow")  # now, when nothing else is given back
            if kind == "slow":
                await asyncio.sleep(1.2)  # twice as long as `ack_wait`
            if kind == "plain":
                await publisher.publish("item.done", {"id": 1})
            self._finished.add(kind)

        return consumers

    async def send_events(self) -> None:
        for kind in ("plain", "flaky", "poison"):
            await self._send(kind)

    async def _send(self, kind: str) -> None:
        body = envelope(f"{kind}-1", resource=kind, kind="item")
        body = body.replace("item.changed", f"item.{kind}")
        await self._js.publish(IN, body.encode(), headers={"Nats-Msg-Id": f"{kind}-1"})

    async def done(self) -> set[str]:
        """What of `ALL` has come about."""
        state = (await self._js.stream_info(STREAM, subjects_filter=">")).state
        stored = state.subjects or {}
        consumer = await self._js.consumer_info(STREAM, "test-orders-workers")
        facts = {
            "published": OUT in stored,
            "dead-lettered": "test.orders.sync.dlq" in stored,
            "acknowledged": IN not in stored,
            "handled": "plain" in self._finished,
            "retried": "flaky" in self._finished,
            # Nothing was delivered again that was still being worked on.
            "extended": "slow" in self._finished
            and consumer.delivered.consumer_seq == len(self._seen),
        }
        return {name for name, true in facts.items() if true}

    def complaints(self) -> str:
        """What readiness has to say."""
        checks = self.bridge.checks()
        return "; ".join(f"{name}: {c.detail}" for name, c in checks.items() if not c.ok)


@asynccontextmanager
async def scene(server: NatsServer, sessions: Sessions, admin: Client) -> AsyncIterator[Scene]:
    scene = Scene(server.url, sessions, admin)
    async with scene.bridge:
        yield scene


@pytest.mark.real
async def test_with_exactly_the_printed_rights_everything_works_and_nothing_is_refused(
    server: NatsServer, sessions: Sessions, admin: Client
) -> None:
    server.reload(account(BINDING))
    await provision(server.url)
    before = server.log.count("Violation")
    async with scene(server, sessions, admin) as orders:
        await eventually(lambda: orders.complaints() == "")
        await orders.send_events()

        async def all_done() -> bool:
            return await orders.done() == ALL

        await eventually(all_done)
        assert orders.complaints() == ""
    assert server.log.count("Violation") == before


# What does not happen without a right; the rest of `ALL` happens all the same.
BROKEN = {
    OUT: {"published"},
    "test.orders.sync.dlq": {"dead-lettered", "acknowledged"},
    f"$JS.API.STREAM.INFO.{STREAM}": set(),
    f"$JS.API.STREAM.MSG.GET.{STREAM}": set(),
    f"$JS.API.CONSUMER.INFO.{STREAM}.test-orders-workers": set(),
    f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.test-orders-workers": ALL,
    f"$JS.ACK.{STREAM}.test-orders-workers.>": {"acknowledged", "extended"},
    "_INBOX_orders.>": ALL,
}


@pytest.mark.real
@pytest.mark.parametrize("right", [*BINDING.publish, *BINDING.subscribe], ids=lambda r: r.subject)
async def test_without_any_one_right_something_breaks_and_readiness_names_it(
    right: Right, server: NatsServer, sessions: Sessions, admin: Client
) -> None:
    server.reload(account(BINDING, without=right))
    await provision(server.url)
    async with scene(server, sessions, admin) as orders:
        await orders.send_events()
        await eventually(lambda: right.subject in orders.complaints(), limit=5)
        expected = ALL - BROKEN[right.subject]

        async def rest_done() -> bool:
            return await orders.done() >= expected

        await eventually(rest_done, limit=5)
        assert not await orders.done() & BROKEN[right.subject]
        assert right.subject in orders.complaints()


@pytest.mark.real
async def test_what_is_not_provisioned_is_named_by_readiness_and_bound_when_it_is_there(
    server: NatsServer, sessions: Sessions, admin: Client
) -> None:
    server.reload(account(BINDING))
    async with scene(server, sessions, admin) as orders:
        await eventually(lambda: f"stream {STREAM} does not exist" in orders.complaints())
        await eventually(lambda: "cannot pull from test-orders-workers" in orders.complaints())
        await provision(server.url)
        await admin.jetstream().delete_consumer(STREAM, "test-orders-workers")
        missing = f"consumer test-orders-workers does not exist on stream {STREAM}"
        await eventually(lambda: missing in orders.complaints())
        await provision(server.url)
        await eventually(lambda: orders.complaints() == "", limit=15)


# --- a service that provisions itself


async def comes_up(url: str) -> None:
    """Stream and consumer as at a start, or the error that names what is refused."""
    settings = orders(url, auto_provision=True)
    async with connected(settings) as connection:
        topology = Topology(connection, settings, durables=durables(settings))
        await topology.ensure()
        await topology.ensure_consumer()
        assert topology.problem is None


async def others_have_the_stream(admin: Client) -> None:
    await admin.jetstream().add_stream(name=STREAM, subjects=["test.x"], retention="workqueue")


async def the_consumer_cannot_be_updated(admin: Client) -> None:
    js = admin.jetstream()
    await js.add_stream(name=STREAM, subjects=["test.>"], retention="workqueue")
    name = "test-orders-workers"
    push = nats.js.api.ConsumerConfig(durable_name=name, deliver_subject="x", filter_subject=IN)
    await js.add_consumer(STREAM, push)


async def somebody_reads_the_events(admin: Client) -> None:
    js = admin.jetstream()
    await js.add_stream(name=STREAM, subjects=["test.>"], retention="workqueue")
    other = nats.js.api.ConsumerConfig(durable_name="other", filter_subject=IN)
    await js.add_consumer(STREAM, other)


# What an account has that makes a service use the right; nothing, where that is enough.
NEEDED_WHEN = {
    "STREAM.NAMES": None,
    f"STREAM.CREATE.{STREAM}": None,
    f"STREAM.UPDATE.{STREAM}": others_have_the_stream,
    f"CONSUMER.DURABLE.CREATE.{STREAM}.test-orders-workers": None,
    f"CONSUMER.DELETE.{STREAM}.test-orders-workers": the_consumer_cannot_be_updated,
    f"CONSUMER.LIST.{STREAM}": somebody_reads_the_events,
}


@pytest.mark.real
@pytest.mark.parametrize("right", NEEDED_WHEN)
async def test_a_service_that_provisions_itself_names_the_right_that_it_lacks(
    right: str, server: NatsServer, admin: Client
) -> None:
    [full] = [one for one in PROVISIONING.publish if one.subject == f"$JS.API.{right}"]
    server.reload(account(PROVISIONING, without=full))
    if prepare := NEEDED_WHEN[right]:
        await prepare(admin)
    with pytest.raises(PermissionDeniedError) as refused:
        await comes_up(server.url)
    assert f"publish on $JS.API.{right}; grant it" in str(refused.value)

    server.reload(account(PROVISIONING))
    if prepare is somebody_reads_the_events:
        with pytest.raises(TopologyError, match="read by consumer other already"):
            await comes_up(server.url)
    else:
        await comes_up(server.url)


def test_these_are_all_the_rights_that_provisioning_adds() -> None:
    added = {right.subject for right in PROVISIONING.publish} - {r.subject for r in BINDING.publish}
    assert added == {f"$JS.API.{right}" for right in NEEDED_WHEN}


# --- what an operator needs


@pytest.mark.real
async def test_an_operator_reads_replays_and_removes_letters_with_the_admin_rights_only(
    server: NatsServer, admin: Client
) -> None:
    await provision(server.url)
    js = admin.jetstream()
    settings = orders(server.url, use_outbox=False)  # a relay reads the stream too
    binding = permissions(settings, durables(settings))
    operating = permissions(settings, durables(settings), admin=True)
    added = [r.subject for r in operating.publish if r not in binding.publish]
    requests = {
        f"$JS.API.STREAM.MSG.GET.{STREAM}": {"last_by_subj": "test.orders.sync.dlq"},
        f"$JS.API.STREAM.MSG.DELETE.{STREAM}": {"seq": 1},
        IN: {},
        "$JS.API.STREAM.NAMES": {},
        f"$JS.API.CONSUMER.LIST.{STREAM}": {},
    }
    assert set(requests) == set(added)
    for rights in (binding, operating):
        server.reload(account(rights))
        await js.publish("test.orders.sync.dlq", b"{}")
        async with connected(settings) as connection:
            for subject, body in requests.items():
                asking = connection.request(subject, json.dumps(body).encode(), timeout=10)
                if rights is binding:
                    with pytest.raises(PermissionDeniedError):
                        await asking
                else:
                    assert "error" not in json.loads((await asking).data)
