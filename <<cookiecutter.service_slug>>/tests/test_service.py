"""What every service on the bridge promises: its API, its events, and what happens in trouble.

`make test` runs this on the mock, `make test-real` on nats-server and PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import Bridge, Consumers, Event, Retry, Unrecoverable
from jetstream_bridge.testing import Deliver, MockServer, Outcome, Published


class Order(BaseModel):
    id: int


class Handler:
    """A handler of a type that no service has: what it saw, and what it is still to raise."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.errors: list[Exception] = []

    async def __call__(self, event: Event[Order]) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.seen.append(event.payload.id)


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
def consumers(handler: Handler) -> Consumers:
    """In the place of the service's own handlers."""
    consumers = Consumers()

    @consumers.on("test.happened")
    async def handle(event: Event[Order]) -> None:
        await handler(event)

    return consumers


async def test_the_service_is_alive_and_becomes_ready(
    client: httpx.AsyncClient, eventually: Callable[..., Any]
) -> None:
    async def is_ready() -> bool:
        return (await client.get("/readyz")).status_code == 200

    assert (await client.get("/healthz")).status_code == 200
    await eventually(is_ready)


async def test_only_operators_reach_the_administration(
    client: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    assert (await client.get("/admin/outbox")).status_code == 401
    assert (await admin.get("/admin/outbox")).status_code == 200


async def test_an_event_is_sent_when_its_transaction_is_committed_and_only_then(
    bridge: Bridge,
    session: AsyncSession,
    assert_published: Callable[..., Any],
    published: Published,
) -> None:
    await bridge.publisher(session).publish("test.happened", {"id": 1})
    await session.rollback()
    await bridge.publisher(session).publish("test.happened", {"id": 2})
    await session.commit()

    await assert_published("test.happened", payload={"id": 2})
    assert [event.payload["id"] for event in published] == [2]


async def test_what_is_published_while_nats_is_away_is_sent_when_it_is_back(
    bridge: Bridge,
    session: AsyncSession,
    mock_nats: MockServer,
    assert_published: Callable[..., Any],
) -> None:
    mock_nats.stop()
    await bridge.publisher(session).publish("test.happened", {"id": 1})
    await session.commit()
    mock_nats.start()

    await assert_published("test.happened", payload={"id": 1})


async def test_an_event_that_comes_twice_takes_effect_once(
    deliver: Deliver, handler: Handler
) -> None:
    event = deliver.body("test.happened", {"id": 1})

    assert (await deliver(event)).outcome is Outcome.PROCESSED
    assert (await deliver(event)).outcome is Outcome.DUPLICATE
    assert handler.seen == [1]


async def test_an_event_whose_handler_fails_is_delivered_again(
    deliver: Deliver, handler: Handler
) -> None:
    handler.errors = [Retry(delay=1)]

    first = await deliver("test.happened", {"id": 1})
    second = await deliver.again(first)

    assert (first.outcome, second.outcome) == (Outcome.RETRIED, Outcome.PROCESSED)
    assert (second.deliveries, handler.seen) == (2, [1])


async def test_a_poison_event_goes_to_the_dead_letters_and_blocks_nobody(
    deliver: Deliver, handler: Handler, published: Published
) -> None:
    handler.errors = [Unrecoverable("no such product")]

    poison = await deliver("test.happened", {"id": 1})
    after = await deliver("test.happened", {"id": 2})

    assert (poison.outcome, poison.reason) == (Outcome.DEAD_LETTERED, "unrecoverable")
    assert after.processed
    assert [letter.payload["id"] for letter in published.dead_letters] == [1]
