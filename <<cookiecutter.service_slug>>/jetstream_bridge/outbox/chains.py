"""What one claim sends: the rows of each resource in order, those of different ones side by side.

A claim is bounded by turns and not by its longest chain, so a resource may have far more rows
than it can send in one. What it has beyond the next claims' need leaves the relay's index, like
the followers of a row that waits (`held`), so that what lies behind it in its lane is seen. It
comes back in portions: twice as many rows as were just sent, so that none is read for nothing.

Events without a resource have no order, and each is a chain of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter

from jetstream_bridge.nats.outgoing import Outcome, Outgoing
from jetstream_bridge.outbox.rows import OutboxRow, message_of
from jetstream_bridge.outbox.settlement import RELEASE_PORTION, Settlement

LEAST_READY = 8  # rows of a hot resource that stay in the relay's index


class Chain:
    """Rows of one resource, oldest first, and what is sent for each."""

    __slots__ = ("followed", "messages", "resource", "rows")

    def __init__(self, resource: str, *, followed: bool) -> None:
        """`resource` is empty for a row without one. `followed`: others of the resource are held,
        or were set aside from this claim."""
        self.resource = resource
        self.followed = followed
        self.rows: list[OutboxRow] = []
        self.messages: list[Outgoing] = []

    def __iter__(self) -> Iterator[tuple[Outgoing, OutboxRow]]:
        return zip(self.messages, self.rows, strict=True)

    @property
    def stored(self) -> int:
        """How many are in the stream; they are the first ones."""
        number = 0
        for message in self.messages:
            if message.outcome is not Outcome.STORED:
                break
            number += 1
        return number


def chains_of(rows: Sequence[OutboxRow], settlement: Settlement, id_header: str) -> list[Chain]:
    """Group rows by resource, in order; followers of a waiting row are set aside.

    Rows due for another try come first, and need not be the oldest of their resource: a failed
    one that is older may have been given another chance since.
    """
    chains: dict[str | int, Chain] = {}
    for row in sorted(rows, key=itemgetter(0)):
        if row.first_held is not None and row.first_held < row.id:
            _set_aside(row, chains.get(row.resource), settlement)
            continue
        key = row.resource or row.id
        chain = chains.get(key)
        if chain is None:
            chain = chains[key] = Chain(row.resource, followed=row.first_held is not None)
        chain.rows.append(row)
        chain.messages.append(message_of(row, id_header))
    return list(chains.values())


def _set_aside(row: OutboxRow, chain: Chain | None, settlement: Settlement) -> None:
    """Let `row` follow the one that its resource waits for, with which it comes back."""
    settlement.held.append(row.id)
    if chain is not None:
        chain.followed = True
    elif row.held:  # the others may have followed it; of many that are retried one is the head
        settlement.release(row, LEAST_READY)


def keep_pace(chain: Chain, stored: int, settlement: Settlement) -> None:
    """Leave as many rows of a resource in the relay's sight as the next claims can send."""
    if stored == len(chain.rows) and not chain.followed:
        return
    left = chain.rows[stored:]
    ready = min(RELEASE_PORTION, max(LEAST_READY, 2 * stored))
    settlement.held.extend(row.id for row in left[ready:])
    if len(left) < ready and chain.followed:
        settlement.release(chain.rows[0], ready - len(left))
