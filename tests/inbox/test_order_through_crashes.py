"""Order and effects through kill -9, SIGTERM, SIGSTOP, cut connections and take-overs, at random.

Versioned events of some resources are written all the time. Each resource's versions take effect
in order, and each once, whatever happened to the workers. The seed fixes what happens, not when.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import nats.errors
import pytest

from tests.bridge.consuming import STREAM, Service
from tests.bridge.support import envelope
from tests.bridge.worker_process import WorkerProcess, by_resource, make_table, seen
from tests.brokers import RealBroker, on_nats_server
from tests.waiting import eventually

SEED = 20261126
RESOURCES = 7
# Longer than it takes until another worker is there: what the one before had comes behind newer.
ACK_WAIT = {False: 6.0, True: 10.0}  # seconds
LIMIT = 60.0  # seconds for everything to be handled after the last of it

on_postgres = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


class Writer:
    """Sends versions of `RESOURCES` resources until it is told to stop."""

    def __init__(self, service: Service, chance: random.Random) -> None:
        self._service = service
        self._chance = chance
        self.versions = dict.fromkeys(map(str, range(RESOURCES)), 0)
        self.sent = 0
        self.stopping = False

    async def run(self) -> None:
        while not self.stopping:
            resource = self._chance.choice(list(self.versions))
            n = self.versions[resource] + 1
            slow = self._chance.random() < 0.1
            body = envelope(
                f"{resource}-{n}", resource=resource, n=n, seconds=0.3 if slow else 0.002
            )
            await self._send(body, f"{resource}-{n}")
            self.versions[resource] = n
            self.sent += 1
            await asyncio.sleep(self._chance.uniform(0.0, 0.04))

    async def _send(self, body: str, message_id: str) -> None:
        """The id makes a second try of one whose answer was lost a duplicate."""
        while True:
            try:
                await self._service.send(body, headers={"Nats-Msg-Id": message_id}, timeout=1.0)
                return
            except (nats.errors.Error, TimeoutError):
                await asyncio.sleep(0.1)


@asynccontextmanager
async def writing(service: Service, chance: random.Random) -> AsyncIterator[Writer]:
    writer = Writer(service, chance)
    task = asyncio.create_task(writer.run())
    try:
        yield writer
    finally:
        writer.stopping = True
        await asyncio.wait_for(task, LIMIT)


class Crew:
    """The workers: one at a time, or two of which one is active."""

    def __init__(self, service: Service, folder: Path, *, exclusive: bool) -> None:
        self._service = service
        self._folder = folder
        self._exclusive = exclusive
        self._made = 0
        self.workers: list[WorkerProcess] = []
        for _ in range(2 if exclusive else 1):
            self.join()

    def join(self) -> None:
        self._made += 1
        url = self._service.engine.url.render_as_string(hide_password=False)
        worker = WorkerProcess(
            f"worker{self._made}",
            url,
            self._service.broker.url,
            self._folder,
            worker_exclusive=self._exclusive,
            ack_wait=ACK_WAIT[self._exclusive],
            worker_batch_size=10,  # what a dead worker held comes again one by one
            shutdown_grace=2.0,
            max_deliver=3,
        )
        self.workers.append(worker.start())

    def close(self) -> None:
        for worker in self.workers:
            worker.close()

    async def busy(self, handles_more: Awaitable[str]) -> WorkerProcess:
        """The one that has just handled something."""
        name = await handles_more
        return next(worker for worker in self.workers if worker.name == name)

    # --- what happens to one of them; each returns with as many at work as before

    async def kill(self, worker: WorkerProcess) -> None:
        worker.kill()
        self._replace(worker)

    async def terminate(self, worker: WorkerProcess) -> None:
        assert await asyncio.to_thread(worker.terminate) == 0, worker.log[-3000:]
        self._replace(worker)

    async def freeze(self, worker: WorkerProcess) -> None:
        """Two of them: for longer than a lease. One alone: it just goes on."""
        worker.freeze()
        await asyncio.sleep(9.0 if self._exclusive else 2.0)
        worker.thaw()

    async def cut(self, _: WorkerProcess) -> None:
        """All connections to NATS are lost, and what was on them."""
        broker = self._service.broker
        assert isinstance(broker, RealBroker)
        await asyncio.to_thread(broker.server.restart)

    def _replace(self, worker: WorkerProcess) -> None:
        self.workers.remove(worker)
        self.join()


@on_postgres
@on_nats_server
@pytest.mark.parametrize("exclusive", [False, True], ids=["one worker", "exclusive"])
async def test_versions_take_effect_in_order_and_once_whatever_happens_to_workers(
    service: Service, tmp_path: Path, exclusive: bool
) -> None:
    chance = random.Random(SEED)
    await make_table(service.engine)
    crew = Crew(service, tmp_path, exclusive=exclusive)
    events = [crew.kill, crew.terminate, crew.freeze, crew.cut]
    chance.shuffle(events)
    try:
        async with writing(service, chance) as writer:
            for happens in events:
                await happens(await crew.busy(handles_more(service)))
        await eventually(lambda: handled_all(service, writer.sent), limit=LIMIT)
    finally:
        crew.close()
    logs = "\n".join(worker.log[-2000:] for worker in crew.workers)
    for resource, numbers in by_resource(await seen(service.engine)).items():
        assert numbers == list(range(1, writer.versions[resource] + 1)), (resource, logs)
    assert await service.dead_letters() == []


async def handles_more(service: Service) -> str:
    """Return which worker handled the last of 20 more."""
    before = len(await seen(service.engine))

    async def more() -> bool:
        return len(await seen(service.engine)) > before + 20

    await eventually(more, limit=LIMIT)
    return (await seen(service.engine))[-1][2]


async def handled_all(service: Service, number: int) -> bool:
    info = await service.client.jetstream().stream_info(STREAM)
    return info.state.messages == 0 and len(await seen(service.engine)) >= number
