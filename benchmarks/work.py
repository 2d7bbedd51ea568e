"""The work that every measurement does: the same events, tables and names.

The peers' environment imports this too, so it needs nothing but nats-py and asyncpg.
"""

from __future__ import annotations

import argparse
import itertools
import json
import uuid
from asyncio import Future, Semaphore, gather, get_running_loop
from collections.abc import Callable, Coroutine, Iterable

import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg

# Of the bare loops and the peers.
STREAM, SUBJECT, DURABLE = "bench", "bench.a", "w"
# Of the bridge: what the services `orders` and `billing` of the environment `bench` use.
OUR_STREAM, OUR_SUBJECT = "bench-jetstream-bridge-stream", "bench.orders.sync.billing"

EVENT_TYPE = "order.created"
WINDOW = 256  # unanswered messages of a publisher

# One row for each handled event. `at` is the moment of its insert, by the server's clock.
WORK_TABLE = (
    "CREATE TABLE bench_work (id bigserial PRIMARY KEY, ref text NOT NULL, note text NOT NULL, "
    "at timestamptz NOT NULL DEFAULT clock_timestamp())"
)
INBOX_TABLE = (
    "CREATE TABLE bench_inbox (id bigserial PRIMARY KEY, event_id text UNIQUE NOT NULL, "
    "subject text, payload jsonb, status text, processed_at timestamptz)"
)


def event_id(number: int) -> str:
    return str(uuid.UUID(int=number + 1))


def body(number: int, *, resource: int) -> str:
    """Return an envelope of the size that services really send."""
    return json.dumps(
        {
            "event_id": event_id(number),
            "schema_version": 1,
            "event_type": EVENT_TYPE,
            "producer": "orders",
            "resource_id": str(resource),
            "occurred_at": "2026-01-01T00:00:00Z",
            "trace_id": "abc",
            "resource_type": "order",
            "payload": {"id": number, "note": "x" * 200},
        },
        separators=(",", ":"),
    )


def driver_url(url: str) -> str:
    """Return an SQLAlchemy address as asyncpg reads it."""
    return url.replace("postgresql+asyncpg://", "postgresql://")


class Acks:
    """Publishes with a window of unanswered messages; only counts the answers."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prefix = client.new_inbox() + "."
        self._tokens = itertools.count()
        self._waiting: dict[str, Future[None]] = {}
        self._room = Semaphore(WINDOW)

    async def start(self) -> None:
        await self._client.subscribe(self._prefix + "*", cb=self._answered)

    async def _answered(self, msg: Msg) -> None:
        future = self._waiting.pop(msg.subject[len(self._prefix) :])
        if b'"error"' in msg.data:
            future.set_exception(RuntimeError(msg.data.decode()))
        else:
            future.set_result(None)
        self._room.release()

    async def publish(self, messages: Iterable[tuple[str, bytes, str]]) -> None:
        """Publish subject, body and message id of each; return when all are stored."""
        futures = []
        loop = get_running_loop()
        for subject, data, message_id in messages:
            await self._room.acquire()
            token = str(next(self._tokens))
            future = self._waiting[token] = loop.create_future()
            futures.append(future)
            await self._client.publish(
                subject, data, reply=self._prefix + token, headers={"Nats-Msg-Id": message_id}
            )
        await gather(*futures)


Loop = Callable[[str, str, int], Coroutine[None, None, None]]


def run(loops: dict[str, Loop]) -> None:
    """Run the loop that the command line names, on the event loop that a service runs on."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loop", choices=sorted(loops))
    parser.add_argument("database", help="the database's URL for asyncpg")
    parser.add_argument("server", help="the URL of nats-server")
    parser.add_argument("number", type=int, help="how many events there are")
    given = parser.parse_args()
    uvloop.run(loops[given.loop](given.database, given.server, given.number))
