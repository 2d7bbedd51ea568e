"""What became of changes that were to take effect elsewhere: counted from both databases."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

Change = tuple[str, int]  # a resource, and its version


@dataclass(frozen=True)
class Count:
    """How far effects differ from the changes that they are of."""

    lost: int
    doubled: int
    disordered: int
    made_up: int  # effects of what was never changed

    def __bool__(self) -> bool:
        return bool(self.lost or self.doubled or self.disordered or self.made_up)


def count(changes: Iterable[Change], effects: Sequence[Change]) -> Count:
    """Compare `changes` with the `effects` that they had, which come in their order."""
    times = Counter(effects)
    wanted = set(changes)
    return Count(
        lost=len(wanted - times.keys()),
        doubled=sum(times.values()) - len(times),
        disordered=disordered(effects),
        made_up=len(times.keys() - wanted),
    )


def disordered(effects: Iterable[Change]) -> int:
    """How often a resource's version was followed by an older one."""
    versions: dict[str, list[int]] = {}
    for resource, version in effects:
        versions.setdefault(resource, []).append(version)
    return sum(later < earlier for row in versions.values() for earlier, later in pairwise(row))


def changes_of(url: str, table: str, *, order: str = "version") -> list[Change]:
    """The changes that a table with `resource` and `version` has."""
    found = rows(url, f"SELECT resource, version FROM {table} ORDER BY {order}")
    return [(row.resource, row.version) for row in found]


def rows(url: str, statement: str) -> Sequence[Row[Any]]:
    """Run one statement on a database, past the service."""
    return asyncio.run(execute(url, statement))


async def execute(url: str, statement: str) -> Sequence[Row[Any]]:
    engine = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            result = await connection.execute(text(statement))
            return result.all() if result.returns_rows else []
    finally:
        await engine.dispose()
