"""How rates are measured: each in processes of their own, seen from this one.

A relay's rate is that of the stream's own timestamps, a worker's that of its rows' moments: from
the first to the last, so that starting and looking do not count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

import asyncpg
from nats.js.errors import NotFoundError

from benchmarks import work
from benchmarks.stage import BASE, Child, Scene, Stage, api_command, free_port
from benchmarks.work import Acks, body, event_id

Values = dict[str, float]


@dataclass(frozen=True)
class Sizes:
    """How much each measurement does. Slow peers get less to do, not less time.

    Enough that a first claim, and learning how large a batch may be, are a small share of it.
    """

    relay: int = 50_000
    consume: int = 40_000
    each: int = 8_000  # of what commits each message
    faststream_outbox: int = 4_000
    faststream: int = 2_000
    sent: int = 1_000_000  # rows that were sent before
    blocked: int = 50_000  # rows behind the failed one
    snapshot: int = 100_000  # rows sent while the snapshot is open
    seconds: int = 8  # of each rate of the latency
    posts: int = 300
    hour: int = 300 * 3600  # events of an hour
    hour_rate: int = 2_500  # of them in a second

    def scaled(self, share: float) -> Sizes:
        """Return sizes with so large a share of the events, and the same states of the tables."""
        names = ("relay", "consume", "each", "faststream_outbox", "faststream")
        return replace(self, **{name: round(share * getattr(self, name)) for name in names})


QUICK = Sizes(
    relay=8_000, consume=6_000, each=2_000, faststream_outbox=1_500, faststream=600, seconds=3,
    sent=200_000, snapshot=30_000, posts=100, hour=25_000,
)  # fmt: skip


# --- relays


async def relay_raw(stage: Stage, sizes: Sizes) -> Values:
    async with stage.scene(None) as scene:
        await _plain_stream(scene)
        scene.bare("relay", sizes.relay)
        return {"relay_raw": await stored_rate(scene, work.STREAM, sizes.relay)}


async def relay_txoutbox(stage: Stage, sizes: Sizes) -> Values:
    async with stage.scene(None) as scene:
        await _plain_stream(scene)
        scene.peer("txoutbox", sizes.relay)
        return {"relay_txoutbox": await stored_rate(scene, work.STREAM, sizes.relay)}


async def relay_faststream_outbox(stage: Stage, sizes: Sizes) -> Values:
    number = sizes.faststream_outbox
    async with stage.scene(None) as scene:
        await _plain_stream(scene)
        scene.peer("faststream_outbox", number)
        return {"relay_faststream_outbox": await stored_rate(scene, work.STREAM, number)}


async def relay(stage: Stage, sizes: Sizes) -> Values:
    return {"relay": await drained(stage, sizes, BASE, resources=5000)}


async def relay_hot(stage: Stage, sizes: Sizes) -> Values:
    return {"relay_hot": await drained(stage, sizes, BASE, resources=50)}


async def relay_beside_sent(stage: Stage, sizes: Sizes) -> Values:
    template = await stage.prepared("bench_sent", sent_rows(sizes.sent))
    return {"relay_1m_sent": await drained(stage, sizes, template, resources=5000)}


async def relay_beside_blocked(stage: Stage, sizes: Sizes) -> Values:
    template = await stage.prepared("bench_blocked", _blocked_rows(sizes.blocked))
    return {"relay_50k_blocked": await drained(stage, sizes, template, resources=5000)}


async def relay_beside_snapshot(stage: Stage, sizes: Sizes) -> Values:
    """Drain while a transaction is open that is older than 100,000 sent rows."""
    before = sizes.snapshot
    async with stage.scene() as scene:
        await scene.connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await scene.connection.fetchval("SELECT count(*) FROM jetstream_outbox_events")
        await enqueue(scene, range(before))
        first = relay_process(scene)
        await _until_stored(scene, work.OUR_STREAM, before)
        first.terminate()
        await enqueue(scene, range(before, before + sizes.relay))
        relay_process(scene)
        rate = await stored_rate(scene, work.OUR_STREAM, sizes.relay, after=before)
        return {"relay_open_snapshot": rate}


async def drained(stage: Stage, sizes: Sizes, template: str, *, resources: int) -> float:
    async with stage.scene(template) as scene:
        await enqueue(scene, range(sizes.relay), resources=resources)
        relay_process(scene)
        return await stored_rate(scene, work.OUR_STREAM, sizes.relay)


def relay_process(scene: Scene, **settings: str) -> Child:
    command = api_command(free_port())
    return scene.service(*command, app="orders", peer="billing", **settings)


async def enqueue(scene: Scene, numbers: Iterable[int], *, resources: int = 5000) -> None:
    """Commit pending rows at once, by a connection of its own: another may hold a snapshot."""
    rows = [(event_id(n), work.OUR_SUBJECT, body(n, resource=n % resources)) for n in numbers]
    connection = await asyncpg.connect(work.driver_url(scene.database))
    await connection.copy_records_to_table(
        "jetstream_outbox_events", records=rows, columns=["event_id", "subject", "payload"]
    )
    await connection.execute("ANALYZE jetstream_outbox_events")
    await connection.close()


def sent_rows(number: int) -> tuple[str, ...]:
    """Statements for a table with `number` rows that were sent; the triggers' work is in them."""
    return (
        "ALTER TABLE jetstream_outbox_events DISABLE TRIGGER USER",
        "INSERT INTO jetstream_outbox_events (event_id, subject, payload, status, sent_at, "
        "resource, lane, bytes) SELECT 'sent-' || n, "
        f"'{work.OUR_SUBJECT}', '{BODY}', 'sent', now(), 'order:' || n % 5000, "
        f"hashtext('order:' || n % 5000) & 15, 500 FROM generate_series(1, {number}) n",
        "ALTER TABLE jetstream_outbox_events ENABLE TRIGGER USER",
        "VACUUM ANALYZE jetstream_outbox_events",
    )


def _blocked_rows(number: int) -> tuple[str, ...]:
    """Statements for a resource whose first event waits an hour for its next try."""
    return (
        "INSERT INTO jetstream_outbox_events (event_id, subject, payload, held) SELECT "
        f"'blocked-' || n, '{work.OUR_SUBJECT}', '{BODY}', true "
        f"FROM generate_series(0, {number}) n",
        "UPDATE jetstream_outbox_events SET attempts = 1, last_error = 'refused', "
        "retry_at = now() + interval '1 hour' WHERE event_id = 'blocked-0'",
        "VACUUM ANALYZE jetstream_outbox_events",
    )


BODY = body(0, resource=77_777)


async def _plain_stream(scene: Scene) -> None:
    await scene.client.jetstream().add_stream(name=work.STREAM, subjects=[f"{work.STREAM}.>"])


async def _until_stored(scene: Scene, stream: str, number: int) -> None:
    js = scene.client.jetstream()

    async def stored() -> bool:
        try:
            return (await js.stream_info(stream)).state.messages >= number
        except NotFoundError:
            return False

    await scene.until(stored, f"message {number:,} in {stream}")


async def stored_rate(scene: Scene, stream: str, number: int, *, after: int = 0) -> float:
    """Wait for `number` messages behind the first `after`; return their rate by the stream."""
    await _until_stored(scene, stream, after + number)
    js = scene.client.jetstream()
    first, last = [await js.get_msg(stream, seq=seq) for seq in (after + 1, after + number)]
    return (number - 1) / (_moment(last.time) - _moment(first.time)).total_seconds()


def _moment(value: object) -> datetime:
    if isinstance(value, datetime):
        return value
    return datetime.fromisoformat(str(value)[:26].rstrip("Z") + "+00:00")


# --- workers


async def consume_raw_batch(stage: Stage, sizes: Sizes) -> Values:
    async with stage.scene(None) as scene:
        await _filled(scene, sizes.consume)
        scene.bare("consume_batches", sizes.consume)
        return {"consume_raw_batch": await written_rate(scene, sizes.consume)}


async def consume_raw_each(stage: Stage, sizes: Sizes) -> Values:
    async with stage.scene(None) as scene:
        await _filled(scene, sizes.each)
        scene.bare("consume_each", sizes.each)
        return {"consume_raw_each": await written_rate(scene, sizes.each)}


async def consume_faststream(stage: Stage, sizes: Sizes) -> Values:
    async with stage.scene(None) as scene:
        await _filled(scene, sizes.faststream)
        scene.peer("faststream", sizes.faststream)
        return {"consume_faststream": await written_rate(scene, sizes.faststream)}


async def consume(stage: Stage, sizes: Sizes) -> Values:
    return {"consume": await consumed(stage, sizes, "each")}


async def consume_batch_handler(stage: Stage, sizes: Sizes) -> Values:
    return {"consume_batch_handler": await consumed(stage, sizes, "many")}


async def consumed(
    stage: Stage, sizes: Sizes, handler: str, *, template: str = BASE, backlog: int | None = None
) -> float:
    """Return the rate of the first events of `backlog` messages; None: these are all."""
    async with stage.scene(template) as scene:
        await scene.client.jetstream().add_stream(
            name=work.OUR_STREAM, subjects=[work.OUR_SUBJECT], retention="workqueue"
        )
        await _publish(scene, work.OUR_SUBJECT, backlog or sizes.consume)
        worker_process(scene, handler)
        return await written_rate(scene, sizes.consume)


def worker_process(scene: Scene, handler: str, **settings: str) -> int:
    """Start a worker; return the port of its probes."""
    port = free_port()
    command = ("benchmarks.service", "worker", handler)
    scene.service(*command, app="billing", peer="orders", WORKER_PORT=str(port), **settings)
    return port


async def _filled(scene: Scene, number: int) -> None:
    await _plain_stream(scene)
    await _publish(scene, work.SUBJECT, number)


async def _publish(scene: Scene, subject: str, number: int) -> None:
    acks = Acks(scene.client)
    await acks.start()
    await acks.publish(
        (subject, body(n, resource=n % 5000).encode(), event_id(n)) for n in range(number)
    )


async def written_rate(scene: Scene, number: int) -> float:
    """Wait until so many rows are there; return the rate of the first ones by their column `at`."""
    await until_rows(scene, "bench_work", number)
    elapsed = await scene.connection.fetchval(
        "SELECT extract(epoch FROM max(at) - min(at))::float8 "
        "FROM (SELECT at FROM bench_work ORDER BY id LIMIT $1) first",
        number,
    )
    return (number - 1) / float(elapsed)


async def until_rows(scene: Scene, table: str, number: int) -> None:
    async def written() -> bool:
        if await scene.connection.fetchval("SELECT to_regclass($1)", table) is None:
            return False
        found = await scene.connection.fetchval(f"SELECT count(*) FROM {table}")
        return bool(found >= number)

    await scene.until(written, f"row {number:,} in {table}")
