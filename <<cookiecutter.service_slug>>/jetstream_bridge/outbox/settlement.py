"""What became of the rows of a claim, and the statements that write it down.

A row that must be tried again later leaves the relay's index (`held`, with `retry_at`), and so
does each of its followers when it is first met. They come back in portions, so that neither
reading nor releasing depends on how many wait. Of one resource only the oldest waiting row has a
`retry_at`: the others follow it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from jetstream_bridge.core.columns import storable
from jetstream_bridge.core.tries import APPENDED, entry

RELEASE_PORTION = 1000  # followers of a resource that come back at once, at most
_MAX_ERROR = 2000  # characters kept in `last_error`


@dataclass(frozen=True, slots=True)
class Retry:
    """A row to be tried again `delay` seconds from now."""

    id: int
    attempts: int
    error: str
    delay: float


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that has used up its attempts."""

    id: int
    attempts: int
    error: str


@dataclass(slots=True)
class Settlement:
    """What became of the rows of one claim. Rows that are not named stay as they were."""

    sent: list[int] = field(default_factory=list)
    retries: list[Retry] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    held: list[int] = field(default_factory=list)  # followers of a row that is waiting
    # Resources whose followers may go on, and how many of them come back at once.
    released: dict[str, int] = field(default_factory=dict)


_SENT = {
    "postgresql": text("""
        UPDATE jetstream_outbox_events
           SET status = 'sent', sent_at = clock_timestamp(), updated_at = clock_timestamp(),
               held = false, retry_at = NULL
         WHERE id = ANY(CAST(:ids AS bigint[]))"""),
    "sqlite": text("""
        UPDATE jetstream_outbox_events
           SET status = 'sent', sent_at = strftime('%Y-%m-%d %H:%M:%f000', 'now'),
               updated_at = strftime('%Y-%m-%d %H:%M:%f000', 'now'), held = false, retry_at = NULL
         WHERE id IN (SELECT value FROM json_each(:ids))"""),
}
_RETRY = {
    "postgresql": text(f"""
        UPDATE jetstream_outbox_events
           SET attempts = :attempts, last_error = :error, held = true,
               tries = {APPENDED["postgresql"]},
               retry_at = clock_timestamp() + make_interval(secs => :delay),
               updated_at = clock_timestamp()
         WHERE id = :id"""),
    "sqlite": text(f"""
        UPDATE jetstream_outbox_events
           SET attempts = :attempts, last_error = :error, held = true, tries = {APPENDED["sqlite"]},
               retry_at = strftime('%Y-%m-%d %H:%M:%f000', 'now', '+' || :delay || ' seconds'),
               updated_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')
         WHERE id = :id"""),
}
_FAIL = {
    dialect: text(f"""
    UPDATE jetstream_outbox_events
       SET status = 'failed', attempts = :attempts, last_error = :error, tries = {appended},
           held = false, retry_at = NULL, updated_at = CURRENT_TIMESTAMP
     WHERE id = :id""")
    for dialect, appended in APPENDED.items()
}
_HOLD = {
    "postgresql": text("""
        UPDATE jetstream_outbox_events SET held = true, retry_at = NULL
         WHERE id = ANY(CAST(:ids AS bigint[]))"""),
    "sqlite": text("""
        UPDATE jetstream_outbox_events SET held = true, retry_at = NULL
         WHERE id IN (SELECT value FROM json_each(:ids))"""),
}
_RELEASE = text("""
    UPDATE jetstream_outbox_events SET held = false
     WHERE id IN (SELECT id FROM jetstream_outbox_events
                   WHERE held AND resource = :resource
                     AND NOT EXISTS (SELECT 1 FROM jetstream_outbox_events p
                                      WHERE p.held AND p.resource = :resource
                                        AND p.retry_at IS NOT NULL)
                   ORDER BY id LIMIT :portion)""")


def many_ids(dialect: str, ids: list[int] | list[str]) -> dict[str, object]:
    """One parameter for any number of ids: an array, or JSON where there are no arrays."""
    return {"ids": ids if dialect == "postgresql" else json.dumps(ids)}


async def write(connection: AsyncConnection, settlement: Settlement) -> None:
    """Write `settlement` in the caller's transaction, each kind of outcome with one statement."""
    dialect = connection.dialect.name
    if settlement.sent:
        await connection.execute(_SENT[dialect], many_ids(dialect, settlement.sent))
    if settlement.retries:
        await connection.execute(
            _RETRY[dialect],
            [_failed(row) | {"delay": row.delay} for row in settlement.retries],
        )
    if settlement.failures:
        await connection.execute(_FAIL[dialect], [_failed(row) for row in settlement.failures])
    if settlement.held:
        await connection.execute(_HOLD[dialect], many_ids(dialect, settlement.held))
    if settlement.released:
        await release(connection, settlement.released)


def _failed(row: Retry | Failure) -> dict[str, object]:
    return {
        "id": row.id,
        "attempts": row.attempts,
        "error": storable(row.error)[:_MAX_ERROR],
        "entry": entry(row.error),
    }


async def release(connection: AsyncConnection, portions: Mapping[str, int]) -> None:
    """Give the relay back the first followers of each resource without a head, so many of each.

    What has no resource follows nothing.
    """
    parameters = [
        {"resource": resource, "portion": portion}
        for resource, portion in sorted(portions.items())
        if resource
    ]
    if parameters:
        await connection.execute(_RELEASE, parameters)
