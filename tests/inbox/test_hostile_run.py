"""Thousands of hostile messages through a worker: each ends once, and all are accounted for.

`make hostile` sends 100,000 of them; HOSTILE and SEED say how many and which.
"""

from __future__ import annotations

import logging
import os
import resource
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import Consumers, Event, Unrecoverable
from jetstream_bridge.inbox.middleware.ended import Ended
from tests.bridge.consuming import DURABLE, STREAM, SUBJECT, Service, insert, letter
from tests.bridge.hostile import hostile
from tests.bridge.raw import publish_raw
from tests.bridge.support import rows
from tests.waiting import eventually

SEED = int(os.environ.get("SEED", "20261126"))
NUMBER = int(os.environ.get("HOSTILE", "0"))
ON_A_SERVER, ON_THE_MOCK = 400, 40
WAVE = 2000  # messages that are on their way at once


class Typed(BaseModel):
    n: int
    name: str = ""


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    n: int
    at: datetime | None = None
    name: str = ""


@dataclass
class Count:
    """An observer: how many deliveries ended in which way."""

    outcomes: Counter[str] = field(default_factory=Counter)

    def ended(self, end: Ended) -> None:
        self.outcomes[end.outcome] += 1

    @property
    def final(self) -> int:
        return self.outcomes.total() - self.outcomes["retried"]


def handling(count: Count) -> Consumers:
    consumers = Consumers()
    consumers.use(count)

    @consumers.on("typed.changed")
    async def typed(event: Event[Typed], session: AsyncSession) -> None:
        assert event.to_envelope()

    @consumers.on("strict.changed")
    async def strict(event: Event[Strict], session: AsyncSession) -> None:
        assert event.to_envelope()

    @consumers.on("loose.changed")
    async def loose(event: Event[dict[str, Any]], session: AsyncSession) -> None:
        assert event.to_envelope()["payload"] == event.payload

    @consumers.on("cast.changed")
    async def cast(event: Event[dict[str, Any]], session: AsyncSession) -> None:
        await insert(session, event.payload["n"])

    @consumers.upcast("cast.changed", from_version=1)
    def to_two(payload: dict[str, Any]) -> dict[str, Any]:
        return {**payload, "name": payload["name"].strip() if "name" in payload else ""}

    @consumers.on("fails.changed")
    async def fails(event: Event[dict[str, Any]], session: AsyncSession) -> None:
        raise LookupError(f"no {event.payload!r}")

    @consumers.on("refuses.changed")
    async def refuses(event: Event[dict[str, Any]], session: AsyncSession) -> None:
        raise Unrecoverable(f"not {event.resource_id!r} of {event.producer!r}")

    return consumers


async def stored(service: Service) -> int:
    """How many messages the stream has taken; letters count too."""
    return int((await service.client.jetstream().stream_info(STREAM)).state.last_seq)


def resident() -> int:
    """Bytes of memory that the process has in use now."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


async def letters_of(service: Service, last: int) -> Sequence[dict[str, Any]]:
    js = service.client.jetstream()
    found: list[dict[str, Any]] = []
    sequence = 0
    while sequence < last:
        try:
            message = await js.get_msg(
                STREAM, seq=sequence + 1, subject="test.billing.sync.dlq", next=True
            )
        except Exception:
            break
        found.append(letter(message))
        sequence = message.seq or last
    return found


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Without pytest's handler each letter's line and traceback would go to the terminal."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize(
    ("broker", "database_url"),
    [
        ("mock", "sqlite"),
        pytest.param("real", "postgresql", marks=pytest.mark.real),
    ],
    indirect=True,
)
async def test_every_hostile_message_ends_once(service: Service) -> None:
    number = NUMBER or (ON_THE_MOCK if service.broker.is_mock else ON_A_SERVER)
    count = Count()
    sizes: list[int] = []
    sent = 0

    async def are_over() -> bool:
        info = await service.info()
        return not info.num_pending and not info.num_ack_pending

    async with service.working(handling(count), max_deliver=2) as bridge:
        for message in hostile(SEED, number, large_every=39 if number < 10_000 else 2000):
            await publish_raw(service.client, SUBJECT.encode(), message.block, message.body)
            sent += 1
            if sent % WAVE == 0 or sent == number:
                await eventually(are_over, limit=300, what=f"the end of {sent} messages")
                sizes.append(resident())
                print(f"{sent} messages, {sizes[-1] >> 20} MiB", flush=True)
        checks = bridge.checks()
        assert checks["consumers"].ok, checks
    last = await stored(service)
    letters = await letters_of(service, last)
    # What the stream refused, such as an expectation that it does not meet, never was a message;
    # an id that was there already made a message a duplicate of the stream's.
    taken = last - len(letters)
    assert 0.7 * number < taken <= number
    assert count.final == taken, count.outcomes
    parked = await rows(
        service.engine, "SELECT count(*) FROM jetstream_inbox_events WHERE body IS NOT NULL"
    )
    assert len(letters) + parked[0][0] == count.outcomes["dead_lettered"]
    assert len({one["sequence"] for one in letters}) == len(letters)
    assert all(one["consumer"] == DURABLE for one in letters)
    processed = await rows(
        service.engine, "SELECT count(*) FROM jetstream_inbox_events WHERE status = 'processed'"
    )
    assert processed[0][0] == count.outcomes["processed"]
    assert await service.is_empty()
    print(f"\n{taken} of {number} messages (seed {SEED}): {dict(count.outcomes)}")
    print("resident MiB by wave:", [size >> 20 for size in sizes])
    if len(sizes) >= 8:
        warm = max(sizes[: len(sizes) // 2])
        assert max(sizes) < warm * 1.25 + (32 << 20), "memory grows with the messages"


@pytest.mark.parametrize(
    ("broker", "database_url"),
    [
        ("mock", "sqlite"),
        pytest.param("real", "postgresql", marks=pytest.mark.real),
    ],
    indirect=True,
)
@pytest.mark.parametrize(
    "without",
    [{"use_dlq": False}, {"use_inbox": False}, {"use_dlq": False, "use_inbox": False}],
)
async def test_every_hostile_message_ends_without_letters_or_inbox_too(
    service: Service, without: dict[str, bool]
) -> None:
    number = ON_THE_MOCK // 2 if service.broker.is_mock else ON_A_SERVER // 2
    count = Count()

    async with service.working(handling(count), max_deliver=2, **without):
        for message in hostile(SEED + 1, number, large_every=19):
            await publish_raw(service.client, SUBJECT.encode(), message.block, message.body)
        await eventually(service.is_empty, limit=60)
    letters = await letters_of(service, await stored(service))
    assert count.final == await stored(service) - len(letters), count.outcomes
    parked = await rows(
        service.engine, "SELECT count(*) FROM jetstream_inbox_events WHERE body IS NOT NULL"
    )
    assert len(letters) + parked[0][0] == count.outcomes["dead_lettered"]
