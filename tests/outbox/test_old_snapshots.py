"""An open transaction elsewhere does not slow the relay, whatever was sent since it began."""

from __future__ import annotations

from functools import partial

from jetstream_bridge.outbox.claims import lanes_of
from tests.bridge.old_snapshots import blocks_of, generate, look, old_snapshot, send_all
from tests.bridge.support import database

SENT = 100_000
MOST_BLOCKS = 500


async def test_a_look_costs_the_same_beside_an_open_snapshot(postgres_url: str) -> None:
    async with database(postgres_url) as (engine, _):
        await generate(engine, SENT, prefix="e", resources=5000)
        lanes = lanes_of(engine, transaction_limit=30)
        async with old_snapshot(engine):
            assert await send_all(lanes) == SENT
            await look(lanes, times=4)
            assert await blocks_of(engine, partial(look, lanes)) <= MOST_BLOCKS
