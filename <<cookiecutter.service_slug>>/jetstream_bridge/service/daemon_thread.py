"""Calls that may block for longer than they say, in a thread that holds up no exit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


async def in_daemon_thread(function: Callable[[], T], *, name: str, within: float) -> T:
    """Return what `function` returns, or raise what it raises; `TimeoutError` after `within` s.

    It goes on in its thread then, which ends with the process at the latest.
    """
    result: Future[T] = Future()
    Thread(target=_run, args=(function, result), name=name, daemon=True).start()
    return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(result)), within)


def _run(function: Callable[[], T], result: Future[T]) -> None:
    if not result.set_running_or_notify_cancel():
        return
    try:
        result.set_result(function())
    except Exception as error:  # it is raised where the result is waited for
        result.set_exception(error)
