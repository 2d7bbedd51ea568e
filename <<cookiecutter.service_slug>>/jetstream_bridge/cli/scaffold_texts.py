"""What `new consumer` and `new event` write: `$type`, `$module` and `$model` are filled in.

The trailing commas keep each text in ruff's format however long the names are.
"""

from __future__ import annotations

from string import Template

CONSUMER = Template('''\
"""What `$type` does here."""

from __future__ import annotations

import logging

from pydantic import BaseModel
from sqlmodel.ext.asyncio.session import AsyncSession

from app.consumers.registry import consumers
from jetstream_bridge import Event


class $model(BaseModel):
    """What this service needs of the payload; an event without it is put aside."""

    id: str


@consumers.on("$type")
async def handle_$module(
    event: Event[$model],
    session: AsyncSession,
    logger: logging.Logger,
) -> None:
    """What `session` writes takes effect once, however often the event is delivered."""
    logger.info("%s of %s", event.type, event.payload.id)
''')

CONSUMER_TEST = Template('''\
"""`$type` takes effect once."""

from __future__ import annotations

from jetstream_bridge.testing import Deliver, Outcome

TYPE = "$type"


async def test_it_is_handled_once(deliver: Deliver) -> None:
    event = deliver.body(TYPE, {"id": "1"})
    assert (await deliver(event)).outcome is Outcome.PROCESSED
    assert (await deliver(event)).outcome is Outcome.DUPLICATE


async def test_a_payload_without_what_is_needed_is_put_aside(deliver: Deliver) -> None:
    result = await deliver(TYPE, {})
    assert (result.outcome, result.reason) == (Outcome.DEAD_LETTERED, "invalid_payload")
''')

EVENT = Template('''\
"""`$type`, as this service publishes it."""

from __future__ import annotations

from pydantic import BaseModel

from app.events import publishes


@publishes("$type")
class $model(BaseModel):
    """What the event tells; its `id` says which resource it is about."""

    id: str
''')

EVENT_TEST = Template('''\
"""`$type` goes out with the commit."""

from __future__ import annotations

from sqlmodel.ext.asyncio.session import AsyncSession

from app.events.$module import (
    $model,
)
from jetstream_bridge import Bridge
from jetstream_bridge.testing import Published

TYPE = "$type"


async def test_it_is_published_with_the_commit(
    bridge: Bridge, session: AsyncSession, published: Published
) -> None:
    event = $model(id="1")
    await bridge.publisher(session).publish(event)
    await session.commit()
    await published.assert_published(TYPE, resource_id="1", payload={"id": "1"})


async def test_it_is_not_published_without_one(
    bridge: Bridge, session: AsyncSession, published: Published
) -> None:
    event = $model(id="1")
    await bridge.publisher(session).publish(event)
    await session.rollback()
    await published.assert_not_published(TYPE)
''')
