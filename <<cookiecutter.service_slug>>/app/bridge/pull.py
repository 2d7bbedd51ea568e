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

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from .clock import loop_time
from .connection import Connection, ConnectionEvent
from .errors import BridgeError
from .nats_session import GuardedClient
from .tasks import happens

logger = logging.getLogger(__name__)

EXPIRES = 30.0  # seconds that the server keeps a request open
HEARTBEAT = 5.0  # seconds between signs of life on an idle request
SILENCE = 2 * HEARTBEAT + 0.5  # seconds: two heartbeats missed
TICK = 0.25  # seconds between two looks at the clock
BACKOFF_MIN, BACKOFF_MAX = 0.1, 5.0  # seconds
WITHDRAW_LIMIT = 2.0  # seconds for the server to confirm that nothing more comes
SETTLED = 2  # failures in a row that are still ordinary, such as a new leader

_NANOSECONDS = 1_000_000_000


class PullLoop:
    """Pulls from one durable consumer. `run` is one task, owned by the worker."""

    def __init__(
        self,
        connection: Connection,
        *,
        stream: str,
        durable: str,
        deliver: Callable[[Msg], None],
        room: Callable[[], int],
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
        self._asked = 0
        self._last_sign = 0.0
        self._failures = 0
        self._retry_at = 0.0
        self._must_ensure = True
        self._stopping = False
        self._poke = asyncio.Event()
        self._client: GuardedClient | None = None
        self._inbox = ""
        self._subscription: Subscription | None = None
        self.problem: str | None = "not started"
        connection.add_listener(self._on_connection)

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
            await subscription.unsubscribe()
        except (NatsError, OSError) as error:
            logger.debug("could not unsubscribe %s: %s", self._durable, error)

    def _on_connection(self, event: ConnectionEvent) -> None:
        """Requests do not survive their connection, nor may the consumer have."""
        self._asked = 0
        self._must_ensure = True
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
        if self._asked and now - self._last_sign > SILENCE:
            self._asked = 0
            self._must_ensure = True
            self._failures += 1
            if self._failures > SETTLED:
                self.problem = f"the server does not answer pull requests for {self._durable}"
        if self._must_ensure:
            await self._ensure()
            self._must_ensure = False
            self._asked = 0
        if self._stopping:
            return
        if client is not self._client:
            inbox = client.new_inbox()
            subscription = await client.subscribe(inbox, cb=self._on_message)
            if self._stopping:  # `stop` has looked meanwhile, and found nothing to withdraw
                await subscription.unsubscribe()
                return
            self._client, self._inbox, self._subscription = client, inbox, subscription
        await self._pull(client)
        if self._failures <= SETTLED:
            self.problem = None

    async def _pull(self, client: GuardedClient) -> None:
        room = self._room()
        wanted = room - self._asked
        # Ask again at half, so that messages flow while the next request is on its way.
        if wanted <= 0 or (self._asked and wanted < room // 2):
            return
        request = {
            "batch": wanted,
            "expires": int(EXPIRES * _NANOSECONDS),
            "idle_heartbeat": int(HEARTBEAT * _NANOSECONDS),
        }
        if not self._asked:
            self._last_sign = loop_time()
        self._asked += wanted
        await client.publish(self._subject, json.dumps(request).encode(), reply=self._inbox)

    async def _on_message(self, msg: Msg) -> None:
        self._last_sign = loop_time()
        status = msg.headers.get("Status") if msg.headers is not None and not msg.reply else None
        if status is None:
            self._asked = max(0, self._asked - 1)
            self._works()
            self._deliver(msg)
        elif status == "100":
            self._works()
        else:
            self._request_ended(status, msg.headers or {})

    def _works(self) -> None:
        self._failures = 0
        self.problem = None

    def _request_ended(self, status: str, headers: dict[str, str]) -> None:
        left = headers.get("Nats-Pending-Messages")
        if status in ("404", "408") or left is not None:  # its time was up
            self._asked = max(0, self._asked - int(left or self._asked))
            self._poke.set()
            return
        # 409: consumer deleted, leadership change, shutdown, limits; 503: nobody there; 400.
        self._asked = 0
        self._must_ensure = True
        self._failed(f"{status} {headers.get('Description', '')}".strip())

    def _failed(self, reason: str) -> None:
        self._failures += 1
        delay = min(BACKOFF_MAX, BACKOFF_MIN * 2 ** min(self._failures, 10))
        self._retry_at = loop_time() + delay * random.uniform(0.5, 1.0)
        if self._failures > SETTLED or self.problem is not None:
            self.problem = f"cannot pull from {self._durable}: {reason}"
        logger.warning("pull from %s failed, again in %.1f s: %s", self._durable, delay, reason)
