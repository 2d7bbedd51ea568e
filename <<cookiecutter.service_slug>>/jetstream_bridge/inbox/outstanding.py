"""What the consumer has handed out and nobody has ended yet, wherever that may be.

A worker that died, froze, or lost its connection leaves messages behind that come again after
`ack_wait`, behind newer ones. The server says how many there are and between which sequences; the
stream says which they are.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from nats.aio.client import Client
from nats.aio.msg import Msg

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.errors import ConsumerMissingError
from jetstream_bridge.events.event import Metadata
from jetstream_bridge.events.headers import parse_block
from jetstream_bridge.inbox.reading import Reader
from jetstream_bridge.inbox.received import Place
from jetstream_bridge.nats.management import Json, StreamApi
from jetstream_bridge.topology.durable_names import DurableSpec

READ_LIMIT = 10.0  # seconds for reading them all


@dataclass(frozen=True, slots=True)
class ConsumerProgress:
    """How far a consumer is."""

    floor: int  # the sequence up to which everything is ended
    delivered: int  # the last sequence that was delivered
    count: int  # deliveries so far, those again included
    pending: int  # delivered and not ended


@dataclass(frozen=True, slots=True)
class Outstanding:
    """A message that somebody may have in hand."""

    place: Place
    resource: str


class TooManyOutstandingError(Exception):
    """The messages between floor and last delivery could not be read in time."""


class DurableView:
    """One durable and its stream, looked at without taking anything."""

    def __init__(
        self,
        api: StreamApi,
        stream: str,
        spec: DurableSpec,
        reader: Reader,
        is_work_queue: Callable[[], bool],
    ) -> None:
        """`is_work_queue` tells whether the stream drops what is ended, as far as is known."""
        self._api = api
        self._stream = stream
        self._spec = spec
        self._reader = reader
        self._is_work_queue = is_work_queue
        self._nobody = Client()  # a message has one; this one sends nothing

    @property
    def is_work_queue(self) -> bool:
        return self._is_work_queue()

    async def state(self) -> ConsumerProgress:
        info = await self._api.consumer(self._stream, self._spec.name)
        if info is None:
            raise ConsumerMissingError(f"consumer {self._spec.name} does not exist")
        floor, delivered = info.get("ack_floor", {}), info.get("delivered", {})
        return ConsumerProgress(
            floor=int(floor.get("stream_seq", 0)),
            delivered=int(delivered.get("stream_seq", 0)),
            count=int(delivered.get("consumer_seq", 0)),
            pending=int(info.get("num_ack_pending", 0)),
        )

    async def has(self, sequence: int) -> bool:
        """Whether the stream still has the message; on a work queue: whether it is not ended."""
        return await self._api.message(self._stream, sequence) is not None

    async def between(self, state: ConsumerProgress) -> list[Outstanding]:
        """Return the messages above the floor that were delivered and have an order to keep.

        A stream that keeps what is ended has those in between, too. Raises `TooMany` after a
        while, `PermissionDeniedError` where this user may not read the stream.
        """
        if not state.pending:
            return []
        deadline = loop_time() + READ_LIMIT
        found: list[Outstanding] = []
        after = state.floor
        while True:
            message = await self._api.next_message(self._stream, self._spec.subject, after=after)
            if message is None or message["seq"] > state.delivered:
                return found
            if loop_time() > deadline:
                raise TooManyOutstandingError
            after = message["seq"]
            found.extend(self._read(message))

    def _read(self, message: Json) -> Iterator[Outstanding]:
        headers = parse_block(base64.b64decode(message.get("hdrs") or ""))
        metadata = Metadata(
            subject=message["subject"],
            stream=self._stream,
            sequence=message["seq"],
            consumer=self._spec.name,
            deliveries=0,
            timestamp=datetime.fromisoformat(message["time"]),
            headers=headers,
        )
        body = base64.b64decode(message.get("data") or "")
        msg = Msg(self._nobody, subject=message["subject"], data=body)
        reading = self._reader.read(msg, headers, metadata)
        # What nobody handles, and what is no event, keeps no order.
        if reading.handler is not None and reading.resource != f"seq:{metadata.place}":
            yield Outstanding((metadata.sequence, metadata.stored_us), reading.resource)
