"""A server that allows little: the worker takes the limits from it, and is ready."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from jetstream_bridge import Consumers, Event
from jetstream_bridge.testing.servers import NatsServer
from tests.bridge.consuming import Change, Service, service_on
from tests.brokers import RealBroker
from tests.waiting import eventually

pytestmark = pytest.mark.real

# The account's own limit, and those of the server.
LIMITED = """
jetstream {{ store_dir: "{store}", max_file_store: 1GB
             limits {{ max_ack_pending: 900, max_request_batch: 100 }} }}
"""
OF_AN_ACCOUNT = """
jetstream {{ store_dir: "{store}", max_file_store: 1GB }}
accounts {{ A {{ users: [{{user: a, password: a}}]
                 jetstream {{ max_file: 500MB, max_mem: 0, max_ack_pending: 1000 }} }} }}
no_auth_user: a
"""


@pytest.fixture(params=[LIMITED, OF_AN_ACCOUNT], ids=["server", "account"])
async def service(request: pytest.FixtureRequest, sqlite_url: str) -> AsyncIterator[Service]:
    server = NatsServer(jetstream=False)
    server.config = request.param.format(store=server.store)
    with server:
        broker = RealBroker(server)
        async with service_on(sqlite_url, broker) as service:
            yield service
        await broker.close_clients()


async def test_a_worker_is_ready_and_takes_as_much_as_it_may(service: Service) -> None:
    seen: list[int] = []
    consumers = Consumers()

    @consumers.on("order.changed")
    async def note(event: Event[Change]) -> None:
        seen.append(event.payload.n)

    async with service.working(consumers, use_inbox=False) as bridge:
        await service.send_many(1200, resources=300)
        await eventually(lambda: len(set(seen)) == 1200, limit=20)
        assert bridge.checks()["consumers"].ok
        assert (await service.info()).config.max_ack_pending in (900, 1000)
