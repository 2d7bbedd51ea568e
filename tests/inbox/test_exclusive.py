"""One active worker, as processes: slow handlers, a frozen holder, and what it does afterwards."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from jetstream_bridge.core.leases import LEASE_SECONDS
from jetstream_bridge.inbox.exclusive_worker import STANDBY_SECONDS
from tests.bridge.consuming import Service
from tests.bridge.support import envelope, scalar
from tests.bridge.worker_process import WorkerProcess, make_table, seen
from tests.brokers import on_nats_server
from tests.waiting import eventually

EXCLUSIVE = {"worker_exclusive": True, "ack_wait": 4.0, "max_deliver": 2}
on_postgres = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


class Pair:
    """Two exclusive workers of one service."""

    def __init__(self, service: Service, folder: Path, **changes: object) -> None:
        url = service.engine.url.render_as_string(hide_password=False)
        self.first, self.second = (
            WorkerProcess(name, url, service.broker.url, folder, **EXCLUSIVE | changes)
            for name in ("first", "second")
        )

    def __enter__(self) -> Pair:
        self.first.start()
        self.second.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.first.close()
        self.second.close()


async def send(service: Service, n: int, *, seconds: float = 0.0, resource: str = "r") -> None:
    await service.send(envelope(f"e{n}", resource=resource, n=n, seconds=seconds))


async def holder(service: Service) -> str:
    return str(await scalar(service.engine, "SELECT holder FROM jetstream_leases"))


@on_nats_server
async def test_handlers_that_outlast_the_lease_take_effect_and_burn_no_try(
    service: Service, tmp_path: Path
) -> None:
    """On SQLite a renewal has to wait for the handler, which holds the only write lock."""
    await make_table(service.engine)
    longer = LEASE_SECONDS + 1.5
    with Pair(service, tmp_path) as pair:
        await send(service, 1, seconds=longer)

        async def done() -> bool:
            return len(await seen(service.engine)) == 1

        await eventually(done, limit=60)
        await eventually(service.is_empty)
        assert "is lost" not in pair.first.log + pair.second.log
    assert {row[2] for row in await seen(service.engine)} == {"first"}
    assert await service.dead_letters() == []


@on_postgres
@on_nats_server
async def test_a_frozen_holder_is_replaced_and_what_it_still_commits_is_refused(
    service: Service, tmp_path: Path
) -> None:
    await make_table(service.engine)
    with Pair(service, tmp_path) as pair:
        await send(service, 1, seconds=2.0)
        await eventually(lambda: _is_handling(service))
        before = await holder(service)
        pair.first.freeze()
        began = time.monotonic()

        async def replaced() -> bool:
            return await holder(service) != before

        await eventually(replaced, limit=2 * LEASE_SECONDS)
        assert time.monotonic() - began < LEASE_SECONDS + STANDBY_SECONDS + 5.0
        await send(service, 2, resource="other")
        pair.first.thaw()
        await eventually(lambda: "is held by another worker" in pair.first.log, limit=20)

        async def done() -> bool:
            return sorted((n, by) for _, n, by in await seen(service.engine)) == [
                (1, "second"),
                (2, "second"),
            ]

        await eventually(done, limit=30)
        await eventually(service.is_empty)
    assert await service.dead_letters() == []


async def _is_handling(service: Service) -> bool:
    """A handler's transaction is open, and waits for its process."""
    number = await scalar(
        service.engine,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND state = 'idle in transaction' AND query LIKE 'INSERT INTO seen%'",
    )
    return bool(number)
