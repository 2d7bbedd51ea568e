"""The pull loop: keeps the server supplied with requests, and notices when it stops answering.

Messages arrive by callback, at once and not when a batch is full. What is outstanding (asked for,
queued, running) never exceeds what the worker says it can take. Every way in which a request can
die (reconnect, deleted consumer, new leader, lost silently) ends in a new request, after a pause
that grows while it fails.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable
from functools import partial

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.errors import BridgeError
from jetstream_bridge.core.tasks import happens
from jetstream_bridge.events.headers import parse_block
from jetstream_bridge.nats.client import GuardedClient
from jetstream_bridge.nats.connection import Connection, ConnectionEvent
from jetstream_bridge.nats.pull_requests import HEARTBEAT, PullCapacity, PullRequests

logger = logging.getLogger(__name__)

SILENCE = 2 * HEARTBEAT + 0.5  # seconds: two heartbeats missed
TICK = 0.25  # seconds between two looks at the clock
BACKOFF_MIN, BACKOFF_MAX = 0.1, 5.0  # seconds
WITHDRAW_LIMIT = 2.0  # seconds for the server to confirm that nothing more comes
SETTLED = 2  # failures in a row that are still ordinary, such as a new leader


class PullLoop:
    """Pulls from one durable consumer. `run` is one task, owned by the worker."""

    def __init__(
        self,
        connection: Connection,
        *,
        stream: str,
        durable: str,
        deliver: Callable[[Msg], None],
        room: Callable[[], PullCapacity],
        ensure: Callable[[], Awaitable[object]],
    ) -> None:
        """`deliver` takes a message. `room` tells how many more the worker can take, those
        asked for not counted. `ensure` makes sure that the durable is there, or raises."""
        self._connection = connection
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._info = f"$JS.API.CONSUMER.INFO.{stream}.{durable}"
        self._durable = durable
        self._deliver = deliver
        self._room = room
        self._ensure = ensure
        self._requests = PullRequests()
        self._last_sign = 0.0
        self._failures = 0
        self._retry_at = 0.0
        self._doubts = 1  # how often the durable may have changed
        self._ensured = 0  # up to which of these it was looked at
        self._stopping = False
        self._poke = asyncio.Event()
        self._client: GuardedClient | None = None
        self._inbox = ""
        self._subscription: Subscription | None = None
        self.problem: str | None = "not started"
        connection.add_listener(self._on_connection)

    @property
    def sure(self) -> bool:
        """Whether the durable was looked at since anything happened to it or the connection."""
        return self._ensured == self._doubts and self._connection.connected

    def poke(self) -> None:
        """There may be room for more."""
        self._poke.set()

    async def run(self) -> None:
        """Pull until `stop`."""
        while not self._stopping:
            try:
                await self._step()
            except (BridgeError, NatsError, OSError, TimeoutError) as error:
                self._failed(str(error) or type(error).__name__)
            await happens(self._poke, TICK)
            self._poke.clear()

    async def stop(self) -> None:
        """Ask for nothing more, and take in what the server has sent already.

        What would arrive unheard at a closed inbox is delivered again only after `ack_wait`.
        """
        self._stopping = True
        self._poke.set()
        self._connection.remove_listener(self._on_connection)
        subscription, self._subscription = self._subscription, None
        client, self._client = self._client, None
        if subscription is None or client is None or client is not self._connection.client:
            return  # the open requests went with their connection
        try:
            await client.withdraw(subscription)
            # Answered after the server read the line above, and so after its last message.
            await self._connection.request(self._info, timeout=WITHDRAW_LIMIT)
        except (BridgeError, NatsError, OSError) as error:
            logger.debug("could not withdraw the requests of %s: %s", self._durable, error)
        try:
            await client.unsubscribe_reader(subscription)
        except (NatsError, OSError) as error:
            logger.debug("could not unsubscribe %s: %s", self._durable, error)

    def _on_connection(self, event: ConnectionEvent) -> None:
        """Requests do not survive their connection, nor may the consumer have."""
        self._requests.forget()
        self._doubts += 1
        self._retry_at = 0.0
        self._poke.set()

    async def _step(self) -> None:
        now = loop_time()
        client = self._connection.client
        if client is None:
            self.problem = "not connected to NATS"
            return
        if now < self._retry_at:
            return
        if self._requests.messages and now - self._last_sign > SILENCE:
            self._requests.forget()
            self._doubts += 1
            self._failures += 1
            if self._failures > SETTLED:
                self.problem = f"the server does not answer pull requests for {self._durable}"
        if self._ensured != self._doubts:
            doubts = self._doubts
            await self._ensure()
            self._ensured = doubts
            self._requests.forget()
        if self._stopping:
            return
        if client is not self._client:
            inbox = client.new_inbox()
            subscription = await client.subscribe_reader(inbox, partial(self._on_message, client))
            if self._stopping:  # `stop` has looked meanwhile, and found nothing to withdraw
                await client.unsubscribe_reader(subscription)
                return
            self._client, self._inbox, self._subscription = client, inbox, subscription
        await self._pull(client)
        if self._failures <= SETTLED:
            self.problem = None

    async def _pull(self, client: GuardedClient) -> None:
        idle = not self._requests.messages
        for request in self._requests.more(self._room(), max_payload=client.max_payload):
            if idle:
                self._last_sign = loop_time()
            await client.publish(self._subject, json.dumps(request).encode(), reply=self._inbox)

    def _on_message(
        self,
        client: GuardedClient,
        subject: bytes,
        reply: bytes,
        data: bytes,
        block: bytes | None,
    ) -> None:
        self._last_sign = loop_time()
        headers = parse_block(block) if block else {}
        status = headers.get("Status") if not reply else None
        if status is None:
            size = len(data) + len(subject) + len(reply) + len(block or b"")
            self._requests.came(size)
            self._works()
            self._take(client.message(subject, reply, data, headers or None))
        elif status == "100":
            self._works()
        else:
            self._request_ended(status, headers)

    def _take(self, msg: Msg) -> None:
        """Hand a message on. One that is none of the consumer's is nobody's here."""
        try:
            self._deliver(msg)
        except Exception:
            logger.exception("a message on the inbox of %s could not be taken in", self._durable)

    def _works(self) -> None:
        self._failures = 0
        self.problem = None

    def _request_ended(self, status: str, headers: dict[str, str]) -> None:
        if self._requests.ended(status, headers):
            if "Exceeded" in headers.get("Description", ""):
                limit = headers["Description"]
                logger.info("requests for %s are smaller now: %s", self._durable, limit)
            self._poke.set()
            return
        # 409: consumer deleted, leadership change, shutdown; 503: nobody there; 400.
        self._doubts += 1
        self._failed(f"{status} {headers.get('Description', '')}".strip())

    def _failed(self, reason: str) -> None:
        self._failures += 1
        delay = min(BACKOFF_MAX, BACKOFF_MIN * 2 ** min(self._failures, 10))
        self._retry_at = loop_time() + delay * random.uniform(0.5, 1.0)
        if self._failures > SETTLED or self.problem is not None:
            self.problem = f"cannot pull from {self._durable}: {reason}"
        logger.warning("pull from %s failed, again in %.1f s: %s", self._durable, delay, reason)
