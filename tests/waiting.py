"""Waiting in tests: ask again until a condition holds, and fail by name when it never does."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable


async def eventually(
    condition: Callable[[], object | Awaitable[object]], *, limit: float = 10.0, what: str = ""
) -> None:
    """Return as soon as `condition()` is true; raise `AssertionError` after `limit` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    while True:
        outcome = condition()
        if inspect.isawaitable(outcome):
            outcome = await outcome
        if outcome:
            return
        if loop.time() > deadline:
            named = what or getattr(condition, "__name__", "the condition")
            raise AssertionError(f"{named} did not come true within {limit:g} s")
        await asyncio.sleep(0.02)
