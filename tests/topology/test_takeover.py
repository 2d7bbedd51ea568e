"""A durable that the gem had: what its limit of deliveries left behind, and its counts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nats.js import JetStreamContext

from jetstream_bridge import Bridge
from jetstream_bridge.core.errors import TopologyError
from jetstream_bridge.nats.connection import Connection
from jetstream_bridge.nats.management import StreamApi
from jetstream_bridge.testing.barrier import barrier
from jetstream_bridge.topology.durable_names import durable_spec
from jetstream_bridge.topology.durables import Durables
from jetstream_bridge.topology.takeover import find_takeovers
from tests.bridge.consuming import DURABLE, STREAM, SUBJECT, Service, recording
from tests.bridge.support import config
from tests.brokers import on_nats_server
from tests.waiting import eventually

LIMIT = 3
GEMS = {"ack_wait": 1, "backoff": [1, 5, 15]}  # nanoseconds, as the gem's client sends them


class Gem:
    """A gem's worker: its durable on the server, and what it asks for."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.subscription: JetStreamContext.PullSubscription

    async def start(self, **changes: Any) -> None:
        wanted = {"durable_name": DURABLE, "ack_policy": "explicit", "filter_subject": SUBJECT}
        body = {"stream_name": STREAM, "config": wanted | {"max_deliver": LIMIT} | changes}
        operation = f"$JS.API.CONSUMER.DURABLE.CREATE.{STREAM}.{DURABLE}"
        answer = await self._service.client.request(operation, json.dumps(body).encode())
        assert "error" not in json.loads(answer.data), answer.data
        js = self._service.client.jetstream()
        self.subscription = await js.pull_subscribe_bind(DURABLE, STREAM)

    async def fails(self, count: int, *, times: int) -> None:
        """Give `count` events back at once, `times` times."""
        for _ in range(times):
            seen = 0
            while seen < count:
                for message in await self.subscription.fetch(count - seen, timeout=5):
                    await message.nak()
                    seen += 1
        await barrier(self._service.client)

    async def used_up(self, count: int) -> None:
        """Ask once more, so that the server notices that `count` events are used up."""
        waiting = self.subscription.fetch(1, timeout=1)
        with pytest.raises(TimeoutError):
            await waiting
        info = await self._service.info()
        assert (info.num_ack_pending, info.num_pending) == (0, 0)
        assert await held(self._service) == count


async def held(service: Service) -> int:
    info = await service.client.jetstream().stream_info(STREAM, subjects_filter=SUBJECT)
    return (info.state.subjects or {}).get(SUBJECT, 0)


@pytest.fixture
async def api(service: Service) -> AsyncIterator[StreamApi]:
    connection = Connection(
        config(service.broker.url).connection, name="t", make_client=service.broker.make_client
    )
    await connection.start()
    await connection.wait_connected(10)
    yield StreamApi(connection)
    await connection.close(timeout=3)


def settings(service: Service, **changes: Any) -> Any:
    return config(service.broker.url, app="billing", peer="orders", **changes)


async def problem_of(service: Service, **changes: Any) -> str:
    """What readiness says of the consumers of a worker that starts now."""
    bridge: Bridge = service.bridge(recording(), **changes)
    async with bridge:
        await eventually(
            lambda: "another program" in (bridge.checks()["consumers"].detail or ""),
            what="the worker says that it does not start on the durable",
        )
        return bridge.checks()["consumers"].detail or ""


@pytest.mark.parametrize("auto_provision", [True, False])
async def test_what_was_left_behind_stops_the_start_until_the_durable_is_made_anew(
    service: Service, api: StreamApi, auto_provision: bool
) -> None:
    gem = Gem(service)
    await gem.start()
    await service.send_many(2, resources=2)
    await gem.fails(2, times=LIMIT)
    await gem.used_up(2)
    await service.send_many(3, resources=5, start=2)

    problem = await problem_of(service, auto_provision=auto_provision)
    assert f"whose limit of {LIMIT} deliveries left 2 messages behind" in problem
    assert "run: python -m app.cli topology takeover" in problem
    assert await service.effects() == []

    ours = settings(service)
    spec = durable_spec(ours, None)
    [found] = await find_takeovers(api, ours, [spec])
    assert (found.needed, found.left_behind, found.limit) == (True, 2, LIMIT)
    await Durables(api, ours).make_anew(spec)
    [after] = await find_takeovers(api, ours, [spec])
    assert (after.needed, after.left_behind) == (False, 0)

    async with service.working(recording()):
        await eventually(service.is_empty, what="all events are handled")
    assert sorted(await service.effects()) == [0, 1, 2, 3, 4]
    assert await service.dead_letters() == []


async def test_an_earlier_takeover_that_lost_messages_is_found(
    service: Service, api: StreamApi
) -> None:
    """A release before this one only changed the limit, which brings nothing back."""
    gem = Gem(service)
    await gem.start()
    await service.send_many(1, resources=1)
    await gem.fails(1, times=LIMIT)
    await gem.used_up(1)
    await gem.start(max_deliver=-1)
    await gem.used_up(1)
    ours = settings(service)
    [found] = await find_takeovers(api, ours, [durable_spec(ours, None)])
    assert (found.needed, found.left_behind, found.limit) == (True, 1, -1)


@pytest.mark.parametrize("use_inbox", [True, False])
async def test_the_counts_of_another_program_dead_letter_nothing(
    service: Service, use_inbox: bool
) -> None:
    """Delivered as often as MAX_DELIVER says, and not once to this service."""
    gem = Gem(service)
    await gem.start(max_deliver=50)
    await service.send_many(2, resources=2)
    await gem.fails(2, times=10)
    await gem.subscription.unsubscribe()
    async with service.working(recording(), max_deliver=2, use_inbox=use_inbox):
        await eventually(service.is_empty, limit=30, what="both events are handled")
    assert sorted(await service.effects()) == [0, 1]
    assert await service.dead_letters() == []


async def test_nothing_left_behind_is_updated_in_place(service: Service, api: StreamApi) -> None:
    gem = Gem(service)
    await gem.start()
    await service.send_many(2, resources=2)
    created = (await service.info()).created
    async with service.working(recording()):
        await eventually(service.is_empty, what="all events are handled")
        assert (await service.info()).created == created
    ours = settings(service)

    async def nobody_asks() -> bool:
        return not await _asks(service)

    await eventually(nobody_asks, limit=40, what="the last request of the worker is over")
    [found] = await find_takeovers(api, ours, [durable_spec(ours, None)])
    assert not found.needed


@on_nats_server
async def test_a_gem_that_still_runs_keeps_its_durable(service: Service, api: StreamApi) -> None:
    gem = Gem(service)
    await gem.start(**GEMS)
    await service.send_many(2, resources=2)
    await gem.fails(2, times=LIMIT)
    await gem.used_up(2)
    ours = settings(service)
    spec = durable_spec(ours, None)
    inbox = service.client.new_inbox()
    operation = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{DURABLE}"
    await service.client.subscribe(inbox)
    await service.client.publish(operation, b'{"batch":25,"expires":60000000000}', reply=inbox)
    await eventually(lambda: _asks(service), what="the gem asks for messages")
    assert "in use by another program" in await problem_of(service)
    with pytest.raises(TopologyError, match=r"in use by another program.* stop it first"):
        await find_takeovers(api, ours, [spec])


@on_nats_server
async def test_what_a_gem_may_have_in_its_hands_stops_the_start(
    service: Service, api: StreamApi
) -> None:
    gem = Gem(service)
    await gem.start(**GEMS)
    await service.send_many(1, resources=1)
    [_] = await gem.subscription.fetch(1, timeout=5)
    assert "0 messages behind that would never come again, and 1 message in its hands" in (
        await problem_of(service)
    )
    ours = settings(service)
    await Durables(api, ours).make_anew(durable_spec(ours, None))
    async with service.working(recording()):
        await eventually(service.is_empty, what="the event is handled")
    assert await service.effects() == [0]


async def _asks(service: Service) -> bool:
    return bool((await service.info()).num_waiting)


async def test_a_stream_that_keeps_its_messages_is_left(service: Service, api: StreamApi) -> None:
    js = service.client.jetstream()
    await js.delete_stream(STREAM)
    await js.add_stream(name=STREAM, subjects=[SUBJECT], retention="limits")
    ours = settings(service)
    with pytest.raises(TopologyError, match="is no work queue: it keeps what is acknowledged"):
        await find_takeovers(api, ours, [durable_spec(ours, None)])
    gem = Gem(service)
    await gem.start()
    await Durables(api, ours).ensure(durable_spec(ours, None))


async def test_a_durable_that_is_not_there_needs_nothing(service: Service, api: StreamApi) -> None:
    ours = settings(service)
    assert await find_takeovers(api, ours, [durable_spec(ours, None)]) == []
