"""The failed tries of an event, kept in its row: the last few, each with its moment and error.

They are written by the statement that counts the failure, so an event that never fails costs
nothing, and are bounded in number and in length.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jetstream_bridge.core.columns import compact, storable
from jetstream_bridge.core.error_report import shortened

KEPT = 10  # tries
MAX_ERROR = 300  # characters of each


@dataclass(frozen=True, slots=True)
class Try:
    """One try that failed."""

    at: str  # RFC 3339, in UTC
    error: str
    delivery: int | None = None  # which delivery of the event it was; None in the outbox


def entry(error: str, *, delivery: int | None = None) -> str:
    """Return the JSON of a try that failed just now, for the parameter `entry`."""
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    told: dict[str, Any] = {"at": at, "error": shortened(storable(error), MAX_ERROR)}
    if delivery is not None:
        told["delivery"] = delivery
    return compact(told)


# The column's new value: `entry` behind the others, the first of which goes when there are many.
# What is no array, which another program may have written, is begun anew.
APPENDED = {
    "postgresql": f"""
        CAST(CASE WHEN tries IS NULL OR json_typeof(tries) <> 'array' THEN CAST('[]' AS jsonb)
                  WHEN json_array_length(tries) >= {KEPT} THEN CAST(tries AS jsonb) - 0
                  ELSE CAST(tries AS jsonb) END
             || jsonb_build_array(CAST(CAST(:entry AS text) AS jsonb)) AS json)""",
    "sqlite": f"""
        json_insert(CASE WHEN tries IS NULL OR NOT json_valid(tries) THEN '[]'
                         WHEN json_type(tries) <> 'array' THEN '[]'
                         WHEN json_array_length(tries) >= {KEPT} THEN json_remove(tries, '$[0]')
                         ELSE tries END, '$[#]', json(:entry))""",
}


def read_tries(text: str | None) -> list[Try]:
    """Read the column, whoever wrote it: what is no try is left out."""
    try:
        found = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return []
    return [_read(one) for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _read(told: dict[str, Any]) -> Try:
    delivery = told.get("delivery")
    known = delivery if isinstance(delivery, int) else None
    return Try(str(told.get("at", "")), str(told.get("error", "")), known)
