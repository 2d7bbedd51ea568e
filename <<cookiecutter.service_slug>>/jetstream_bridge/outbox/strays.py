"""Ready rows below a lane's floor: there are none, unless ids are given in another way than by the
table's sequence at the INSERT.

A program that names an id, draws one long before it inserts, or keeps a store of them (a sequence
with CACHE) may commit a row where no relay looks any more. So a relay goes over what lies below
its floors, a range of ids every few seconds, and makes what it finds due. A range is as wide as can
be looked through in some milliseconds, whatever an old snapshot keeps there.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.outbox.floors import FLOOR, Floors

STRAYS_EVERY = 5.0  # seconds between two ranges
LEAST_WIDTH, MOST_WIDTH = 1_000, 1 << 40  # ids
QUICK, SLOW = 0.01, 0.03  # seconds for a range; the next one is wider, or narrower

_BY_INDEX = text("""
    SELECT set_config('enable_seqscan', 'off', true), set_config('random_page_cost', '1', true)""")
_TAKE = text(f"""
    UPDATE jetstream_outbox_events
       SET held = true, retry_at = clock_timestamp(), updated_at = clock_timestamp()
     WHERE id = ANY(ARRAY(
       SELECT e.id
         FROM jetstream_outbox_lanes l CROSS JOIN LATERAL (SELECT {FLOOR} AS floor) f
         CROSS JOIN LATERAL (
           SELECT s.id FROM jetstream_outbox_events s
            WHERE s.lane = l.lane AND s.status = 'pending' AND NOT s.held
              AND s.id > :after AND s.id <= least(:upto, f.floor)
            ORDER BY s.id LIMIT 100) e))
       AND status = 'pending' AND NOT held""")


class Strays:
    """One relay's way through the ids below its floors."""

    def __init__(self, engine: AsyncEngine, floors: Floors) -> None:
        self._engine = engine
        self._floors = floors
        self._after = 0
        self._width = LEAST_WIDTH
        self._next = loop_time()

    async def look(self) -> int:
        """Go through the next range if it is time; return how many rows were made due."""
        if loop_time() < self._next:
            return 0
        began = loop_time()
        upto = self._after + self._width
        named = {"after": self._after, "upto": upto, **self._floors.parameters}
        async with self._engine.begin() as connection:
            await connection.execute(_BY_INDEX)
            found = (await connection.execute(_TAKE, named)).rowcount
        self._go_on(upto, loop_time() - began)
        return found

    def _go_on(self, reached: int, took: float) -> None:
        self._next = loop_time() + STRAYS_EVERY
        self._after = reached if reached < self._floors.highest else 0
        if took < QUICK:
            self._width = min(MOST_WIDTH, self._width * 4)
        elif took > SLOW:
            self._width = max(LEAST_WIDTH, self._width // 2)
