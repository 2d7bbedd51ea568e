"""What years of rows, a long backlog and hours of work change: `make bench-growth`.

Nothing of it should. Tables are prepared as they are after so many events, and the same work is
measured as without them. An hour at 300 events/s is done in less time, with clean-up running, and
memory and tables are looked at on the way.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import asyncpg

from benchmarks import work
from benchmarks.measurements import (
    BODY,
    Sizes,
    Values,
    consumed,
    drained,
    relay_process,
    sent_rows,
    stored_rate,
    worker_process,
)
from benchmarks.stage import Child, Scene, Stage
from benchmarks.work import body, driver_url, event_id
from jetstream_bridge.outbox.tables import WAKE_CHANNEL

MILLION = 1_000_000
PORTION = 100  # events of one commit in the hour
LOOKS = 40  # at memory and tables in the hour


# --- rows that are done


async def relay_5m_sent(stage: Stage, sizes: Sizes) -> Values:
    template = await stage.prepared("bench_sent_5m", sent_rows(5 * MILLION))
    return {"relay_5m_sent": await drained(stage, sizes, template, resources=5000)}


async def consume_1m_processed(stage: Stage, sizes: Sizes) -> Values:
    return {"consume_1m_processed": await _consumed_beside(stage, sizes, MILLION)}


async def consume_5m_processed(stage: Stage, sizes: Sizes) -> Values:
    return {"consume_5m_processed": await _consumed_beside(stage, sizes, 5 * MILLION)}


async def _consumed_beside(stage: Stage, sizes: Sizes, rows: int) -> float:
    template = await stage.prepared(f"bench_processed_{rows}", _processed_rows(rows))
    return await consumed(stage, sizes, "each", template=template)


def _processed_rows(number: int) -> tuple[str, ...]:
    """Statements for an inbox with `number` rows that were processed."""
    return (
        "INSERT INTO jetstream_inbox_events (consumer, event_id, subject, payload, stream, "
        "stream_seq, stored_us, deliveries, status, processed_at) SELECT 'bench-billing-workers', "
        f"gen_random_uuid()::text, '{work.OUR_SUBJECT}', '{BODY}', 'old-stream', n, n, 1, "
        f"'processed', now() FROM generate_series(1, {number}) n",
        "VACUUM ANALYZE jetstream_inbox_events",
    )


# --- a long backlog


async def relay_backlog_1k(stage: Stage, sizes: Sizes) -> Values:
    return {"relay_backlog_1k": await _relayed(stage, backlog=1_000, number=1_000)}


async def relay_backlog_100k(stage: Stage, sizes: Sizes) -> Values:
    return {"relay_backlog_100k": await _relayed(stage, backlog=100_000, number=sizes.relay)}


async def relay_backlog_1m(stage: Stage, sizes: Sizes) -> Values:
    return {"relay_backlog_1m": await _relayed(stage, backlog=MILLION, number=sizes.relay)}


async def _relayed(stage: Stage, *, backlog: int, number: int) -> float:
    """Return the rate of the first `number` events of so many."""
    template = await stage.prepared(f"bench_backlog_{backlog}", _pending_rows(backlog))
    async with stage.scene(template) as scene:
        relay_process(scene)
        return await stored_rate(scene, work.OUR_STREAM, number)


def _pending_rows(number: int) -> tuple[str, ...]:
    """Statements for `number` pending rows of 5,000 resources, written as a service does."""
    document = f"'{BODY}'::jsonb || jsonb_build_object('resource_id', (n % 5000)::text)"
    return (
        "INSERT INTO jetstream_outbox_events (event_id, subject, payload) SELECT "
        f"'pending-' || n, '{work.OUR_SUBJECT}', ({document})::json "
        f"FROM generate_series(1, {number}) n",
        "VACUUM ANALYZE jetstream_outbox_events",
    )


async def consume_backlog_100k(stage: Stage, sizes: Sizes) -> Values:
    return {"consume_backlog_100k": await consumed(stage, sizes, "each", backlog=100_000)}


async def consume_backlog_1m(stage: Stage, sizes: Sizes) -> Values:
    return {"consume_backlog_1m": await consumed(stage, sizes, "each", backlog=MILLION)}


# --- an hour


@dataclass(frozen=True)
class Sample:
    """What a look at the running pair found; in bytes."""

    at: float  # seconds since the first event
    relay: int
    worker: int
    outbox: int
    inbox: int
    behind: int  # events that are written and not handled


async def hour(stage: Stage, sizes: Sizes) -> Values:
    """Send `sizes.hour` events through relay and worker at one rate, with clean-up running.

    Rows are kept for a minute: after that both tables should stay as large as they are, and so
    should both processes' memory. Compared are the looks of the second quarter and of the last.
    """
    keep = {"OUTBOX_RETENTION": "60s", "INBOX_RETENTION": "60s"}
    async with stage.scene() as scene:
        relay = relay_process(scene, **keep)
        await scene.until_ready(worker_process(scene, "each", **keep))
        samples = await _watched(scene, relay, scene.children[-1], sizes)
    second, last = _quarter(samples, 1), _quarter(samples, 3)
    return {
        "hour_relay_memory": _largest(last, "relay") / _largest(second, "relay"),
        "hour_worker_memory": _largest(last, "worker") / _largest(second, "worker"),
        "hour_outbox_size": _largest(last, "outbox") / _largest(second, "outbox"),
        "hour_inbox_size": _largest(last, "inbox") / _largest(second, "inbox"),
        "hour_behind": float(_largest(last, "behind")),
    }


async def _watched(scene: Scene, relay: Child, worker: Child, sizes: Sizes) -> list[Sample]:
    sending = asyncio.create_task(_send(scene, sizes), name="sender")
    samples: list[Sample] = []
    began = time.monotonic()
    try:
        while not sending.done():
            for child in scene.children:
                child.check()
            samples.append(await _look(scene, relay, worker, time.monotonic() - began))
            await asyncio.wait({sending}, timeout=sizes.hour / sizes.hour_rate / LOOKS)
        await sending
    finally:
        sending.cancel()
    await scene.until(lambda: _all_handled(scene, sizes.hour), "the last event")
    return samples


async def _send(scene: Scene, sizes: Sizes) -> None:
    """Commit `sizes.hour` events in portions, `sizes.hour_rate` in a second."""
    connection = await asyncpg.connect(driver_url(scene.database))
    began = time.monotonic()
    for start in range(0, sizes.hour, PORTION):
        rows = [
            (event_id(n), work.OUR_SUBJECT, body(n, resource=n % 5000))
            for n in range(start, min(start + PORTION, sizes.hour))
        ]
        await connection.copy_records_to_table(
            "jetstream_outbox_events", records=rows, columns=["event_id", "subject", "payload"]
        )
        await connection.execute(f"NOTIFY {WAKE_CHANNEL}")
        await asyncio.sleep(max(0.0, began + start / sizes.hour_rate - time.monotonic()))
    await connection.close()


async def _look(scene: Scene, relay: Child, worker: Child, at: float) -> Sample:
    outbox, inbox, written, handled = await scene.connection.fetchrow(_SIZES)
    return Sample(at, relay.memory(), worker.memory(), outbox, inbox, written - handled)


# Sequences tell how many there have been, whatever clean-up deleted since.
_SIZES = """
    SELECT pg_total_relation_size('jetstream_outbox_events'),
           pg_total_relation_size('jetstream_inbox_events'),
           coalesce(pg_sequence_last_value(
             pg_get_serial_sequence('jetstream_outbox_events', 'id')), 0),
           coalesce(pg_sequence_last_value(pg_get_serial_sequence('bench_work', 'id')), 0)"""


async def _all_handled(scene: Scene, number: int) -> bool:
    return bool(await scene.connection.fetchval("SELECT count(*) FROM bench_work") >= number)


def _quarter(samples: list[Sample], number: int) -> list[Sample]:
    length = len(samples) // 4
    return samples[number * length : (number + 1) * length]


def _largest(samples: list[Sample], name: str) -> int:
    return max(int(getattr(sample, name)) for sample in samples)
