"""Taking the place of a service that ran the gem: what there is to do, and doing it.

In this order: the gem's tables make way, migrations make ours, ids and events are copied, and only
then its durable is made anew. Each part finds what is done already, so all of it can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jetstream_bridge.bridge import Bridge
from jetstream_bridge.operations.dead_letter_queue import LetterFilter
from jetstream_bridge.operations.gem_rows import Copied, GemRows
from jetstream_bridge.operations.gem_tables import GemTables, find_gem_tables, rename_gem_tables
from jetstream_bridge.operations.replaying import original_key
from jetstream_bridge.service.database import Database
from jetstream_bridge.topology.durable_names import DurableSpec

_LETTERS = 100  # in one page
Step = Callable[[], None]


@dataclass(slots=True, kw_only=True)
class Adopted:
    """What was done, or would be."""

    tables: GemTables
    copied: Copied = field(default_factory=Copied)
    next_step: str | None = None  # by hand, and then all of this again

    @property
    def found_nothing(self) -> bool:
        return self.tables.outbox is None and self.tables.inbox is None


class Adoption:
    """The database's part. `step` is called whenever something was done."""

    def __init__(
        self, database: Database, bridge: Bridge, durables: Sequence[DurableSpec], step: Step
    ) -> None:
        self._engine = database.engine
        self._bridge = bridge
        self._durables = durables
        self._step = step

    async def run(self, *, dry_run: bool) -> Adopted:
        tables = await find_gem_tables(self._engine)
        self._step()
        if not dry_run:
            await rename_gem_tables(self._engine, tables)
        adopted = Adopted(tables=tables, next_step=tables.next_step)
        if dry_run or tables.next_step is None:
            adopted.copied = await self._copy(tables, dry_run=dry_run)
        return adopted

    async def _copy(self, tables: GemTables, *, dry_run: bool) -> Copied:
        rows, copied = GemRows(self._engine, dry_run=dry_run), Copied()
        if tables.inbox is not None:
            portions = rows.inbox(
                tables.inbox,
                {spec.subject: spec.name for spec in self._durables},
                default=self._bridge.durable(),
                with_letter=await self._with_letter(),
                within=self._bridge.config.inbox_retention,
            )
            async for portion in portions:
                copied.add(portion)
                self._step()
        if tables.outbox is not None:
            async for portion in rows.outbox(tables.outbox):
                copied.add(portion)
                self._step()
        return copied

    async def _with_letter(self) -> set[str]:
        """The keys of the events that have a dead letter in the stream."""
        keys: set[str] = set()
        after = None
        if not (await self._bridge.inspection.stream()).exists:
            return keys
        while True:
            page = await self._bridge.letters.page(
                after=after, limit=_LETTERS, letter_filter=LetterFilter(), within=5.0
            )
            keys |= {key for letter in page.items if (key := original_key(letter)) is not None}
            self._step()
            after = page.next
            if after is None:
                return keys
