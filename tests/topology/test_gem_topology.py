"""Whoever starts first, a gem finds its own subjects in the stream and has nothing to change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js.api import RetentionPolicy, StreamConfig
from nats.js.errors import APIError, NotFoundError

from jetstream_bridge.core.config import BridgeConfig, ConnectionOptions
from jetstream_bridge.core.subjects import covered
from jetstream_bridge.nats.connection import Connection
from jetstream_bridge.topology.durable_names import durable_spec
from jetstream_bridge.topology.provisioning import Topology, subjects_of_peer
from tests.brokers import Broker

CONFIG = BridgeConfig(app_name="worker", destination_app="api", env="gold", gem_peer=True)
STREAM = CONFIG.stream
DEAD_LETTERS = ["gold.worker.sync.dlq", "gold.api.sync.dlq", "gold.audit.sync.dlq"]


async def start_gem(client: Client, app: str, destination: str) -> None:
    """What the gem does when it starts: a stream of its own, or an update without retention."""
    js = client.jetstream()
    wanted = [
        f"gold.{app}.sync.{destination}",
        f"gold.{destination}.sync.{app}",
        f"gold.{app}.sync.dlq",
    ]
    for pause in (0.05, 0.2, 0.5, None):
        try:
            present = (await js.stream_info(STREAM)).config.subjects or []
        except NotFoundError:
            new = StreamConfig(STREAM, subjects=wanted, retention=RetentionPolicy.WORK_QUEUE)
            try:
                await js.add_stream(new)
                return
            except APIError as error:  # any 400 looks like an overlap to it
                if pause is None or error.code != 400:
                    raise
            await asyncio.sleep(pause)
            continue
        missing = [subject for subject in wanted if not covered(present, subject)]
        if missing:
            await js.update_stream(StreamConfig(STREAM, subjects=[*present, *missing]))
        return


@pytest.fixture
async def connection(broker: Broker) -> AsyncIterator[Connection]:
    connection = Connection(
        ConnectionOptions(urls=(broker.url,)), name="worker", make_client=broker.make_client
    )
    await connection.start()
    await connection.wait_connected(10)
    yield connection
    await connection.close(timeout=3)


def topology(connection: Connection, **changes: Any) -> Topology:
    config = replace(CONFIG, **changes)
    specs = [durable_spec(config, None), durable_spec(config, "audit"), durable_spec(config, "dlq")]
    return Topology(connection, config, durables=specs)


async def test_what_each_peer_looks_for_is_needed(broker: Broker, connection: Connection) -> None:
    ours = topology(connection)
    assert [s for s in ours.needed if s.endswith("dlq")] == DEAD_LETTERS
    await ours.ensure()
    assert ours.problem is None
    await start_gem(await broker.connect(), "api", "worker")
    await start_gem(await broker.connect(), "audit", "worker")


async def test_without_the_setting_a_gem_that_comes_second_does_not_start(
    broker: Broker, connection: Connection
) -> None:
    await topology(connection, gem_peer=False).ensure()
    with pytest.raises(APIError) as refused:
        await start_gem(await broker.connect(), "api", "worker")
    assert refused.value.err_code == 10052


@pytest.mark.parametrize("gem_peer", [True, False])
async def test_a_gem_may_come_first(broker: Broker, connection: Connection, gem_peer: bool) -> None:
    await start_gem(await broker.connect(), "api", "worker")
    ours = topology(connection, gem_peer=gem_peer)
    await ours.ensure()
    assert ours.problem is None
    await start_gem(await broker.connect(), "api", "worker")  # again, and nothing is to be changed


async def test_they_may_start_at_once(broker: Broker, connection: Connection) -> None:
    ours, client = topology(connection), await broker.connect()
    for _ in range(10):
        await asyncio.gather(ours.ensure(), start_gem(client, "api", "worker"))
        assert set(await ours.subjects()) >= set(ours.needed)
        await client.jetstream().delete_stream(STREAM)


async def test_what_two_other_gems_need_can_be_added(
    broker: Broker, connection: Connection
) -> None:
    subjects = [
        *subjects_of_peer(CONFIG, "shop", "billing"),
        *subjects_of_peer(CONFIG, "billing", "shop"),
        *subjects_of_peer(CONFIG, "crm"),
    ]
    ours = topology(connection, gem_peer=False)
    await ours.ensure(extra_subjects=subjects)
    for app, destination in (("shop", "billing"), ("billing", "shop"), ("crm", "worker")):
        await start_gem(await broker.connect(), app, destination)
    plan = await ours.plan(extra_subjects=subjects)
    assert plan.add == ()


async def test_bound_only_a_dead_letter_subject_that_is_missing_is_named(
    connection: Connection,
) -> None:
    await topology(connection, gem_peer=False).ensure()
    ours = topology(connection, auto_provision=False)
    await ours.ensure()
    missing = "lacks gold.api.sync.dlq, gold.worker.sync.audit, gold.audit.sync.dlq"
    assert missing in (ours.problem or "")
