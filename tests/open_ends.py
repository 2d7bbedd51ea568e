"""What a test leaves open is that test's fault, and harms no test after it.

The collector would find a connection some time later and blame whichever test runs then. So the
loop of every async test is looked at when all of the test's fixtures have ended: a connection, or
a task, that is still there fails the test, and is ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from typing import Any

import pytest
import pytest_asyncio

FIXTURE = "nothing_left_open"
_failed = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if pytest_asyncio.is_async_test(item):
            item.fixturenames.insert(0, FIXTURE)  # the first to begin is the last to end


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[_failed] = item.stash.get(_failed, False) or report.failed
    return report


@pytest_asyncio.fixture
async def nothing_left_open(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Fail a test that passed and left something open. One that failed had no chance to end it."""
    yield
    await _settle()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    left = [*map(_named, _open()), *(repr(task.get_coro()) for task in tasks)]
    for transport in _open():
        transport.abort()
    for task in tasks:
        task.cancel()
    await _settle()
    if left and not request.node.stash.get(_failed, False):
        pytest.fail(f"left open: {', '.join(left)}; end what was begun", pytrace=False)


def _open() -> list[asyncio.Transport]:
    """The loop's connections. A selector loop keeps them by file descriptor."""
    transports: dict[int, Any] = getattr(asyncio.get_running_loop(), "_transports", {})
    return [transport for transport in list(transports.values()) if not transport.is_closing()]


async def _settle() -> None:
    """What was told to end does so in the loop's next rounds."""
    for _ in range(3):
        await asyncio.sleep(0)


def _named(transport: asyncio.Transport) -> str:
    here, there = (transport.get_extra_info(name) for name in ("sockname", "peername"))
    return f"a connection of {here} to {there}"
