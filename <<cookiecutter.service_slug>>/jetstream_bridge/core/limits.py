"""Waiting that ends: no await on somebody else's code lasts longer than its caller allows.

`asyncio.wait_for` does not promise that. It waits for the task that it cancelled, and nats-py
swallows a cancellation in places.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long the connection waits for what; all in seconds."""

    connect_timeout: float = 3.0  # for each step: socket, greeting, TLS, login
    reconnect_min: float = 0.1
    reconnect_max: float = 5.0
    ping_interval: float = 15.0
    flush_timeout: float = 5.0  # of a full send buffer
    probe_interval: float = 3.0
    probe_timeout: float = 2.0
    silent_probes: int = 3  # in a row, before the client is given up
    reconnect_limit: float = 10.0  # then a new client, with files read anew, is the better try
    denied_inbox_retry: float = 30.0
    stable_after: float = 5.0  # a client that lived as long resets the back-off

    def delay(self, attempt: int) -> float:
        """Wait before try number `attempt`: growing by half, capped, with jitter."""
        ceiling: float = min(self.reconnect_max, self.reconnect_min * 1.5 ** min(attempt, 50))
        return ceiling * random.uniform(0.5, 1.0)


async def bounded(work: Coroutine[Any, Any, T], limit: float) -> T:
    """Await `work` for at most `limit` seconds, then leave it behind and raise `TimeoutError`."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=limit)
        if not task.done():
            raise TimeoutError(f"not done within {limit:g} s")
        return task.result()
    finally:
        leave(task)


def leave(task: asyncio.Task[Any]) -> None:
    """Cancel `task` if it still runs, without waiting for its end; nobody asks how it ended."""
    if not task.done():
        task.cancel()
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
