"""Events that end their process: they become letters, and no event beside them does."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.bridge.consuming import Service, letter
from tests.bridge.support import envelope
from tests.bridge.worker_process import WorkerProcess, make_table, seen
from tests.brokers import on_nats_server

INNOCENT = 300
DEADLY = {20: 0, 25: int(signal.SIGSEGV)}  # as number 20 and 25 in the stream, and how they end
SHARED_DEATHS, MAX_DELIVER = 2, 2
LIMIT = 240.0  # seconds, on a busy machine; it takes about 25

pytestmark = [pytest.mark.real, pytest.mark.timeout(LIMIT + 60)]


@on_nats_server
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_of_events_beside_those_that_end_the_process_none_becomes_a_letter(
    service: Service, tmp_path: Path
) -> None:
    await make_table(service.engine)
    for n in range(INNOCENT):
        if n in DEADLY:
            body = envelope(f"deadly-{n}", resource=f"deadly-{n}", n=1000 + n, ends=DEADLY[n])
            await service.send(body)
        await service.send(envelope(f"e{n}", resource=str(n), n=n, seconds=0.02))
    url = service.engine.url.render_as_string(hide_password=False)
    options = {"max_deliver": MAX_DELIVER, "ack_wait": 1.0, "worker_concurrency": 8}
    starts = 0
    deadline = time.monotonic() + LIMIT
    with WorkerProcess("one", url, service.broker.url, tmp_path, **options) as worker:
        while not await service.is_empty():
            assert time.monotonic() < deadline, worker.log[-3000:]
            if not worker.is_running:
                starts += 1
                worker.start(wait=False)
                if starts == 3:  # and one that is killed in its best years, as deploys do
                    worker.wait_ready()
                    worker.kill()
            await asyncio.sleep(0.05)  # between two looks, within the limit
    letters = {letter(dead)["event_id"]: letter(dead) for dead in await service.dead_letters()}
    assert sorted(letters) == sorted(f"deadly-{n}" for n in DEADLY)
    assert {said["error_class"] for said in letters.values()} == {"ProcessEndedError"}
    assert sorted(n for _, n, _ in await seen(service.engine)) == list(range(INNOCENT))
    most = len(DEADLY) * (SHARED_DEATHS + MAX_DELIVER)
    assert starts <= most + 2, "each ends its process twice beside others, then alone"
