"""What the bridge asks often costs the same, whatever is finished and however old a snapshot is.

`pytest tests/operations/test_blocks.py -s` prints the table of docs/performance.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge.core.leases import LeaseHolder
from jetstream_bridge.inbox.maintenance import InboxMaintenance
from jetstream_bridge.inbox.tables import InboxStatus
from jetstream_bridge.operations.listing import InboxListing, OutboxListing
from jetstream_bridge.operations.statistics import (
    flow,
    inbox_stats,
    outbox_backlog,
    outbox_stats,
)
from jetstream_bridge.outbox.claims import Lanes, lanes_of
from jetstream_bridge.outbox.maintenance import OutboxMaintenance
from jetstream_bridge.outbox.tables import OutboxStatus
from jetstream_bridge.outbox.upkeep import RelayMaintenance
from tests.bridge.old_snapshots import blocks_of, generate, look, old_snapshot, send_all
from tests.bridge.support import database
from tests.outbox.test_lanes import run

FINISHED = 100_000
HOUR, WEEK = 3600.0, 7 * 86_400.0

_HANDLED = """
    INSERT INTO jetstream_inbox_events
           (consumer, event_id, subject, payload, stream, stream_seq, stored_us, status,
            processed_at)
    SELECT 'c', 'x' || n, 's', json_build_object('payload', repeat('x', 200)), 'S', n, n,
           'processed', {0}
      FROM generate_series({1}, {2}) n"""


_LONG_AGO = "timestamptz '2020-01-01' + n * interval '1 second'"


class Lived:
    """A service that has sent and handled many events beside an old snapshot, which is open."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.lanes: Lanes = lanes_of(engine, transaction_limit=30)
        self.inbox = InboxMaintenance(engine)
        self.outbox = OutboxMaintenance(engine)
        self.upkeep = RelayMaintenance(self.outbox, self.lanes, retention=WEEK)

    async def live(self) -> None:
        """Send and handle events; half of both are deleted, being old."""
        await send_all(self.lanes)
        await run(
            self.engine,
            "UPDATE jetstream_outbox_events SET sent_at = '2020-01-01' WHERE id <= 50000",
        )
        await run(self.engine, _HANDLED.format(_LONG_AGO, 1, FINISHED // 2))
        await run(self.engine, _HANDLED.format("now()", FINISHED // 2 + 1, FINISHED))
        # The clean-up that begins at the first row is this one, and the next such in an hour.
        self.upkeep._from_start = 0.0
        await self.clean_outbox()
        while self.upkeep._cleaned_up_to:
            await self.clean_outbox()
        await self.clean_inbox()
        await look(self.lanes, times=4)

    async def clean_outbox(self) -> None:
        self.upkeep._next = 0.0
        await self.upkeep._clean_up()

    async def clean_inbox(self) -> None:
        await self.inbox.purge(older_than=HOUR)

    @property
    def asked(self) -> dict[str, tuple[Callable[[], Awaitable[object]], int]]:
        """What is asked, and how many blocks it may touch."""
        engine, outbox, inbox = self.engine, OutboxListing(self.engine), InboxListing(self.engine)
        return {
            "a look of the relay": (partial(look, self.lanes), 500),
            "backlog for metrics and console": (partial(outbox_backlog, engine), 500),
            "what moved lately": (partial(flow, engine, within=0.0), 100),
            "clean-up of the outbox, nothing to do": (self.clean_outbox, 300),
            "clean-up of the inbox, nothing to do": (self.clean_inbox, 100),
            "followers without a head": (self.outbox.release_orphans, 100),
            "first page of the outbox": (partial(outbox.page), 500),
            "page of pending events": (partial(outbox.page, status=OutboxStatus.PENDING), 500),
            "page of failed events": (partial(outbox.page, status=OutboxStatus.FAILED), 100),
            "page of blocked events": (partial(outbox.page, blocked=True), 100),
            "first page of the inbox": (partial(inbox.page), 500),
            "page of dead-lettered events": (
                partial(inbox.page, status=InboxStatus.DEAD_LETTERED),
                100,
            ),
            "outbox stats": (partial(outbox_stats, engine), 250_000),
            "inbox stats": (partial(inbox_stats, engine), 250_000),
            "a lease renewed": (LeaseHolder(engine, "x").acquire, 100),
        }


@pytest.fixture
async def lived(postgres_url: str) -> AsyncIterator[Lived]:
    async with database(postgres_url) as (engine, _):
        await generate(engine, FINISHED, prefix="e", resources=5000)
        async with old_snapshot(engine):
            service = Lived(engine)
            await service.live()
            yield service


async def test_what_is_asked_often_touches_few_blocks(lived: Lived) -> None:
    measured = {name: await blocks_of(lived.engine, ask) for name, (ask, _) in lived.asked.items()}
    print()
    for name, number in measured.items():
        print(f"| {name} | {number:,} |")
    assert {
        name: number for name, number in measured.items() if number > lived.asked[name][1]
    } == {}


async def test_a_table_emptied_beside_an_old_snapshot_costs_no_more(lived: Lived) -> None:
    await run(lived.engine, "DELETE FROM jetstream_outbox_events")
    assert await blocks_of(lived.engine, partial(look, lived.lanes)) <= 500
    assert await blocks_of(lived.engine, partial(flow, lived.engine, within=0.0)) <= 100


async def test_a_relay_that_begins_finds_the_floors_of_the_one_before(lived: Lived) -> None:
    begun = lanes_of(lived.engine, transaction_limit=30)
    assert await blocks_of(lived.engine, partial(look, begun)) <= 2000
