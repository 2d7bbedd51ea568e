"""What Prometheus gets, and what it costs."""

from __future__ import annotations

import math
import re

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from app.settings import Settings
from jetstream_bridge import Bridge
from jetstream_bridge.operations.queue_metrics import QueueMetrics
from jetstream_bridge.service.database import Database
from jetstream_bridge.testing import Deliver, MockServer, Published, VirtualClock
from tests.bridge.support import statements
from tests.waiting import eventually
from tests.web.conftest import INCOMING, Dead, Outbox, sample

GAUGES = (
    "bridge_outbox_pending",
    "bridge_outbox_failed",
    "bridge_outbox_oldest_pending_seconds",
    "bridge_consumer_lag",
    "bridge_dlq_messages",
    "bridge_nats_connected",
)
ON_SQLITE = {"bridge_database_oldest_transaction_seconds": 0, "bridge_database_dead_rows": 0}


async def _gauges(client: httpx.AsyncClient) -> dict[str, float]:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        name: float(value)
        for name, value in re.findall(r"^(bridge_\w+) (\S+)$", answer.text, re.MULTILINE)
        if name in GAUGES or name in ON_SQLITE
    }


async def test_the_queues_are_measured(
    admin: httpx.AsyncClient,
    bridge: Bridge,
    dead: Dead,
    outbox: Outbox,
    mock_nats: MockServer,
    clock: VirtualClock,
) -> None:
    await dead.add(1)
    await bridge.stop()
    await admin.post("/admin/outbox/pause")
    mock_nats.put(INCOMING, b"{}")
    mock_nats.put(INCOMING, b"{}")
    await outbox.add("e1")
    await outbox.add("e2", status="failed")
    await clock.advance("10s")
    gauges = await _gauges(admin)

    assert 9 < gauges.pop("bridge_outbox_oldest_pending_seconds") < 30
    assert gauges == {
        "bridge_outbox_pending": 1,
        "bridge_outbox_failed": 1,
        "bridge_consumer_lag": 2,
        "bridge_dlq_messages": 1,
        "bridge_nats_connected": 1,
        **ON_SQLITE,
    }


async def test_scraping_costs_one_statement_in_five_seconds_however_often(
    app: FastAPI, admin: httpx.AsyncClient, mock_nats: MockServer, clock: VirtualClock
) -> None:
    database: Database = app.state.database
    await admin.post("/admin/outbox/pause")
    seen = statements(database.engine)

    def queries() -> list[str]:
        return [statement for statement in seen if "oldest_ready" in statement]

    for _ in range(20):
        await _gauges(admin)
    assert len(queries()) == 1
    assert all("count(" not in statement for statement in seen if statement not in queries())

    await clock.advance("6s")
    await _gauges(admin)
    await _gauges(admin)
    assert len(queries()) == 2


async def test_readiness_is_exported_and_costs_no_more_than_the_probes_already_did(
    app: FastAPI, admin: httpx.AsyncClient, mock_nats: MockServer, clock: VirtualClock
) -> None:
    database: Database = app.state.database
    await clock.advance("6s")
    seen = statements(database.engine)

    def asked() -> int:
        return len([one for one in seen if one.startswith("DELETE FROM jetstream_leases")])

    assert (await admin.get("/readyz")).status_code == 200
    for _ in range(20):
        assert set((await _ready(admin)).values()) == {1}
    assert asked() == 1, "the probe's question"
    assert set(await _ready(admin)) == {
        "database",
        "migrations",
        "tasks",
        "nats",
        "stream",
        "relay",
    }

    mock_nats.stop()
    await clock.advance("6s")
    ready = await _ready(admin)
    assert ready["database"] == 1
    assert (ready["nats"], ready["stream"], ready["relay"]) == (0, 0, 0)
    assert asked() == 2
    assert sample("bridge_info", app="orders", env="test") == 1


async def _ready(client: httpx.AsyncClient) -> dict[str, float]:
    text = (await client.get("/metrics")).text
    found = re.findall(r'^bridge_ready\{check="(\w+)"\} (\S+)$', text, re.MULTILINE)
    return {name: float(value) for name, value in found}


async def test_what_cannot_be_read_is_no_number(
    admin: httpx.AsyncClient, mock_nats: MockServer, database: Database, clock: VirtualClock
) -> None:
    mock_nats.stop()
    async with database.engine.begin() as connection:
        await connection.execute(text("DROP TABLE jetstream_outbox_events"))
    gauges = await _gauges(admin)

    assert gauges.pop("bridge_nats_connected") == 0
    assert {name: gauges.pop(name) for name in ON_SQLITE} == ON_SQLITE
    assert len(gauges) == len(GAUGES) - 1
    assert all(math.isnan(value) for value in gauges.values())


async def test_a_scrape_does_not_wait_for_a_silent_server(
    admin: httpx.AsyncClient, mock_nats: MockServer
) -> None:
    mock_nats.faults.ignore_api(times=1000)
    began = mock_nats.now()
    gauges = await _gauges(admin)

    assert mock_nats.now() - began < 2.5
    assert math.isnan(gauges["bridge_consumer_lag"])


@pytest.fixture
def service_settings(service_settings: Settings) -> Settings:
    return service_settings.model_copy(update={"outbox_max_attempts": 2})


async def test_a_process_that_stops_does_not_wait_for_a_reading(
    admin: httpx.AsyncClient, running_app: FastAPI, mock_nats: MockServer
) -> None:
    mock_nats.faults.slow("3s")
    await _gauges(admin)
    queues: QueueMetrics = running_app.state.queues
    began = mock_nats.now()
    await queues.close()

    assert mock_nats.now() - began < 0.5


async def test_published_events_are_counted_by_what_became_of_them(
    admin: httpx.AsyncClient,
    outbox: Outbox,
    published: Published,
    mock_nats: MockServer,
    clock: VirtualClock,
) -> None:
    names = ("published", "duplicate", "refused", "failed", "unavailable")

    def counts() -> dict[str, float]:
        return {name: sample("bridge_published_total", result=name) for name in names}

    before = counts()
    delivered = sample("bridge_delivery_seconds_count")
    acknowledged = sample("bridge_publish_seconds_count")
    mock_nats.faults.lose_ack()
    await outbox.add("e1")
    await eventually(lambda: counts()["duplicate"] == before["duplicate"] + 1, limit=60)
    await outbox.add("e2")
    await eventually(lambda: len(published) == 2)
    mock_nats.faults.refuse_publish(10054, times=2)
    await outbox.add("e3")
    await eventually(lambda: counts()["failed"] == before["failed"] + 1, limit=60)

    assert {name: counts()[name] - before[name] for name in names} == {
        "published": 1,
        "duplicate": 1,
        "refused": 1,
        "failed": 1,
        "unavailable": 1,
    }
    assert sample("bridge_delivery_seconds_count") - delivered == 2
    assert sample("bridge_publish_seconds_count") - acknowledged == 2
    assert sample("bridge_publish_seconds_bucket", le="+Inf") == sample(
        "bridge_publish_seconds_count"
    )


async def test_every_metric_of_publishing_and_of_the_queues_is_exposed(
    admin: httpx.AsyncClient, deliver: Deliver
) -> None:
    await deliver("order.placed", {"id": 1})
    exposed = (await admin.get("/metrics")).text
    families = set(re.findall(r"^# TYPE (bridge_\w+) ", exposed, re.MULTILINE))

    assert families >= {
        *GAUGES,
        "bridge_published_total",
        "bridge_publish_seconds",
        "bridge_delivery_seconds",
        "bridge_consumed_total",
        "bridge_handler_seconds",
        "bridge_end_to_end_seconds",
    }


async def test_values_of_a_batch_are_sorted_into_the_buckets() -> None:
    from jetstream_bridge.outbox.metrics import BatchHistogram

    histogram = BatchHistogram("h_seconds", "", (0.1, 1))
    histogram.observe([-1, 0.05, 0.1, 0.5, 7])
    histogram.observe([])
    [family] = histogram.collect()

    found = {(s.name, s.labels.get("le")): s.value for s in family.samples}
    assert found == {
        ("h_seconds_bucket", "0.1"): 3,
        ("h_seconds_bucket", "1.0"): 4,
        ("h_seconds_bucket", "+Inf"): 5,
        ("h_seconds_count", None): 5,
        ("h_seconds_sum", None): pytest.approx(7.65),
    }


class TestWithoutTheOutbox:
    """`USE_OUTBOX=false`: a request sends its event at once."""

    @pytest.fixture
    def service_settings(self, service_settings: Settings) -> Settings:
        return service_settings.model_copy(update={"use_outbox": False})

    async def test_what_is_sent_at_once_is_counted_too(
        self, admin: httpx.AsyncClient, running_app: FastAPI, mock_nats: MockServer
    ) -> None:
        bridge: Bridge = running_app.state.bridge
        database: Database = running_app.state.database

        async def publish() -> bool:
            async with database.sessions() as session:
                return (await bridge.publisher(session).publish("order.placed", {"id": 1})).success

        results = ("published", "failed", "unavailable")
        before = {name: sample("bridge_published_total", result=name) for name in results}
        assert await publish()
        mock_nats.faults.refuse_publish(10054)
        assert not await publish()
        mock_nats.stop()
        assert not await publish()

        after = {name: sample("bridge_published_total", result=name) for name in results}
        assert {name: after[name] - before[name] for name in results} == dict.fromkeys(results, 1)
