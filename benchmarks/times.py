"""How times are measured: from a commit to a handler, and of one request."""

from __future__ import annotations

import asyncio
import http.client
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import closing

from benchmarks.measurements import Sizes, Values, until_rows, worker_process
from benchmarks.stage import Scene, Stage, bench_api_command, free_port

TURN = 25  # requests of one kind, before the other kind has its turn
PAUSE = 0.02  # seconds before a request, in which the relay is done with the one before

Way = tuple[http.client.HTTPConnection, str]


async def latency(stage: Stage, sizes: Sizes) -> Values:
    return await _latency(stage, sizes, rate=50)


async def latency_500(stage: Stage, sizes: Sizes) -> Values:
    found = await _latency(stage, sizes, rate=500)
    return {f"{name}_at_500": value for name, value in found.items()}


async def _latency(stage: Stage, sizes: Sizes, *, rate: int) -> Values:
    """Milliseconds from a commit to the handler's first line in another process.

    A quarter of the time warms both up and is left out.
    """
    number = rate * sizes.seconds
    async with stage.scene() as scene:
        await scene.until_ready(worker_process(scene, "timed"))
        command = ("benchmarks.service", "publish", str(rate), str(sizes.seconds))
        scene.service(*command, app="orders", peer="billing")
        await until_rows(scene, "bench_commits", number)
        await until_rows(scene, "bench_work", number)
        p50, p99 = await scene.connection.fetchval(_PERCENTILES, number // 4)
    return {"latency_p50": p50, "latency_p99": p99}


_PERCENTILES = """
    SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP
             (ORDER BY greatest(0, w.note::float8 - c.at) * 1000)
      FROM bench_work w JOIN bench_commits c ON c.event_id = w.ref WHERE c.number >= $1"""


async def post(stage: Stage, sizes: Sizes) -> Values:
    """Milliseconds of one `POST`, with a pause before each and one right after the other; medians.

    Each kind has a process of its own, the one without the outbox has no relay, and they take
    turns: what else the machine does meets both.
    """
    async with stage.scene() as scene:
        outbox = await _api_process(scene)
        plain = await _api_process(scene, RELAY_ENABLED="false")
        with closing(_client(outbox)) as one, closing(_client(plain)) as other:
            ways = [(one, "/customers"), (other, "/plain")]
            await asyncio.to_thread(_turns, ways, number=2 * TURN, turn=TURN)  # warms up
            paused = await asyncio.to_thread(_turns, ways, number=sizes.posts, pause=PAUSE)
            dense = await asyncio.to_thread(_turns, ways, number=sizes.posts, turn=TURN)
    return {
        "post": statistics.median(paused[0]),
        "post_plain": statistics.median(paused[1]),
        "post_dense": statistics.median(dense[0]),
        "post_plain_dense": statistics.median(dense[1]),
    }


async def _api_process(scene: Scene, **settings: str) -> int:
    port = free_port()
    scene.service(*bench_api_command(port), app="orders", peer="billing", **settings)
    await scene.until_ready(port)
    return port


def _client(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=10)


def _turns(
    ways: Sequence[Way], *, number: int, turn: int = 1, pause: float = 0.0
) -> list[list[float]]:
    """Return the times of `number` requests of each way, `turn` of one after `turn` of another."""
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(number // turn):
        for taken, (client, path) in zip(times, ways, strict=True):
            for _ in range(turn):
                time.sleep(pause)
                taken.append(_post_time(client, path))
    return times


def _post_time(client: http.client.HTTPConnection, path: str) -> float:
    new = json.dumps({"name": "Ada Lovelace", "email": "ada@example.org"})
    began = time.perf_counter()
    client.request("POST", path, new, {"Content-Type": "application/json"})
    answer = client.getresponse()
    answer.read()
    if answer.status != 201:
        raise RuntimeError(f"POST {path} answered {answer.status}; 201 was expected")
    return 1000 * (time.perf_counter() - began)
