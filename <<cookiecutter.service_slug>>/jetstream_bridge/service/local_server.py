"""What a nats-server and a PostgreSQL of this machine have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

_LIMIT = 30.0  # seconds in which a server comes up, or ends
_LINES = 5  # of a log


class NotStartedError(Exception):
    """A local server cannot be started or stopped; the message says why and what to do instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalServer:
    """One server: where it answers if it runs, and where its data are in either case."""

    name: str
    address: str | None  # None: it does not run
    pid: int | None
    data: Path
    log: Path

    @property
    def runs(self) -> bool:
        return self.address is not None


async def until(holds: Callable[[], Awaitable[bool]], *, what: str, does: str) -> None:
    """Wait until it holds; raise `NotStartedError` after 30 s."""
    try:
        async with asyncio.timeout(_LIMIT):
            while not await holds():  # noqa: ASYNC110 - another process sets no event
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise NotStartedError(f"{what} does not {does} within {_LIMIT:g} s") from None


def last_lines(log: Path) -> str:
    """The end of a log, on one line."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return f"its log cannot be read: {error}"
    return " | ".join(line.strip() for line in lines[-_LINES:]) or f"{log} is empty"
