"""A handler's cancellations are its own: what it cancels, or leaves to be cancelled, is its task.

A handler that cancels its task, or forgets a time limit that strikes later, would otherwise stop
the worker's own work, and nobody could tell that from a stop that was asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from jetstream_bridge.core.errors import HandlerExitError

T = TypeVar("T")


async def apart(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` in a task of its own; raise `HandlerExitError` if that was cancelled from within.

    Cancelling the caller cancels `work`, and waits for its end.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # whatever it was, the stop is what counts
        raise
    try:
        return task.result()
    except asyncio.CancelledError as error:
        raise HandlerExitError(
            "a handler ended in a cancellation that nobody had asked for; it cancelled its own "
            "task, awaited one that was cancelled, or left a time limit behind"
        ) from error
