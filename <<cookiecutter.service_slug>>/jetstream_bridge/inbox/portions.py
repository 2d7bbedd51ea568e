"""Handling a batch: all of it in one transaction, and what is left of it in smaller ones.

Whatever the portions are, an event runs only after those before it in its resource.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain

from jetstream_bridge.inbox.delivery import Delivery
from jetstream_bridge.inbox.single_run import RunResult, SingleRuns


async def in_portions(
    batch: list[Delivery], runs: SingleRuns, goes_on: Callable[[], bool]
) -> Sequence[Delivery]:
    """Handle `batch`, together if possible; return what must wait and was not tried."""
    stopped: set[str] = set()  # resources whose earlier event has to come first
    waiting: list[Delivery] = []
    portions = deque([batch])
    while portions:
        if not goes_on():
            return [*waiting, *chain.from_iterable(portions)]
        portion: list[Delivery] = []
        for delivery in portions.popleft():
            if delivery.resource in stopped or delivery.wait:
                stopped.add(delivery.resource)
                waiting.append(delivery)
            else:
                portion.append(delivery)
        if len(portion) > 1:
            portions.extendleft(reversed(await runs.together(portion)))
        elif portion:
            result = await runs.one(portion[0])
            if result is not RunResult.DONE:
                stopped.add(portion[0].resource)
            if result is RunResult.UNTRIED:
                waiting.append(portion[0])
    return waiting
