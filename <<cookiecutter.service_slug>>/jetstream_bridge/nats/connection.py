"""The supervised connection: there is always a working client, or one being made.

nats-py reconnects by itself after an ordinary disconnect. Some things close or wedge its client
for good: a payload over the server's limit, rotated or expired credentials, a reconnect stuck on
a socket with unsent data, a dead read loop. The supervisor notices, discards that client and puts
a new one in its place, whose subscriptions have to be made anew: listeners are told `REPLACED`.

`close()` ends within its time, whatever the server does.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from nats.aio.msg import Msg

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.config import ConnectionOptions
from jetstream_bridge.core.errors import BridgeError, NotConnectedError
from jetstream_bridge.core.limits import Timing
from jetstream_bridge.core.tasks import Tasks
from jetstream_bridge.nats.client import GuardedClient
from jetstream_bridge.nats.options import NatsOptions
from jetstream_bridge.nats.session import ClientFactory, Session

logger = logging.getLogger(__name__)

_DISCARD_LIMIT = 1.0  # seconds for closing a client that is given up
_POLL = 0.25  # seconds; the client's own state changes a little before its callbacks are called


class ConnectionEvent(enum.Enum):
    """What happened to the connection."""

    CONNECTED = "connected"  # for the first time, or again with the same client
    DISCONNECTED = "disconnected"
    REPLACED = "replaced"  # connected with a new client: subscribe again
    CLOSED = "closed"  # by `close()`; the last event


Listener = Callable[[ConnectionEvent], None]


class Connection:
    """One supervised connection to NATS.

    Raises `ConfigurationError` at once when the options cannot work; everything else is tried
    again until `close()`.
    """

    def __init__(
        self,
        options: ConnectionOptions,
        *,
        name: str,
        inbox_prefix: str | None = None,
        timing: Timing | None = None,
        make_client: ClientFactory = GuardedClient,
    ) -> None:
        self._options = NatsOptions(options)
        self._name = name
        self._inbox_prefix = inbox_prefix
        self._timing = timing or Timing()
        self._make_client = make_client
        self._listeners: list[Listener] = []
        self._session: Session | None = None
        self._tasks = Tasks()
        self._started = False
        self._changed = asyncio.Event()
        self._announced_up = False
        self._closed = False
        self._reported: set[str] = set()  # errors since the last connect: one line for each
        self.generation = 0  # grows with each connect, reconnect and replacement
        self.error: str | None = None  # why there is no connection; carries no secret
        self.connected_at: datetime | None = None

    async def start(self) -> None:
        """Begin to connect, in the background; NATS may be down."""
        if self._started or self._closed:
            raise RuntimeError("the connection was started already; make a new one")
        self._options.arguments()  # a missing file stops the start, not the tenth reconnect
        self._started = True
        self._tasks.start("connection supervisor", self._supervise)

    async def close(self, timeout: float = 5.0) -> None:
        """Send what is buffered, close, and return within `timeout` seconds in any case."""
        if self._closed:
            return
        deadline = loop_time() + timeout
        self._closed = True
        await self._tasks.cancel(within=timeout)
        session, self._session = self._session, None
        if session is not None:
            await session.discard(max(0.0, deadline - loop_time()))
        self._announce(ConnectionEvent.CLOSED)

    @property
    def client(self) -> GuardedClient | None:
        """The client, while it is connected."""
        session = self._session
        if session is None or not session.client.is_connected or session.client.is_draining:
            return None
        return session.client

    @property
    def connected(self) -> bool:
        return self.client is not None

    @property
    def state(self) -> str:
        if self._closed:
            return "closed"
        if self.connected:
            return "connected"
        return "reconnecting" if self.generation else "connecting"

    @property
    def addresses(self) -> list[str]:
        """The servers to connect to, without credentials."""
        return [str(address) for address in self._options.addresses]

    def failures(self) -> list[str]:
        """Return a line if the supervising task is down, or keeps dying."""
        return self._tasks.failures()

    def add_listener(self, listener: Listener) -> None:
        """Have `listener` called with each event; it must return at once."""
        self._listeners.append(listener)

    def remove_listener(self, listener: Listener) -> None:
        with contextlib.suppress(ValueError):
            self._listeners.remove(listener)

    async def wait_connected(self, timeout: float) -> GuardedClient:
        """Return the connected client; raise `NotConnectedError` after `timeout` seconds."""
        deadline = loop_time() + timeout
        while (client := self.client) is None:
            left = deadline - loop_time()
            if left <= 0 or self._closed:
                raise NotConnectedError(self.explain())
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(left, _POLL))
        return client

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        timeout: float,
    ) -> Msg:
        """Send a request and return the answer, which may be an error of JetStream's.

        Raises `NotConnectedError` when nothing was sent, `RequestTimeoutError` when no answer
        came, `NoRespondersError` when nobody listens, and `PermissionDeniedError` when the server
        refuses the subject.
        """
        if self.client is None or self._session is None:
            raise NotConnectedError(self.explain())
        return await self._session.request(subject, payload, limit=timeout)

    async def probe(self, timeout: float = 2.0) -> float:
        """Return the seconds that a ping of the connected server took; it needs no right."""
        if self.client is None or self._session is None:
            raise NotConnectedError(self.explain())
        began = time.perf_counter()
        await self._session.ping(timeout)
        return time.perf_counter() - began

    def denial(self, subject: str) -> str | None:
        """Say how the server lately refused `subject` to the present client, if it did."""
        return self._session.denial(subject) if self._session is not None else None

    async def _supervise(self) -> None:
        attempt = 0
        if self._session is not None:  # of a supervisor that died
            await self._give_up("its supervisor died")
        while True:
            session = await self._establish(attempt)
            began = loop_time()
            self._adopt(session)
            await self._give_up(await self._watch(session))
            lasted = loop_time() - began
            attempt = 1 if lasted >= self._timing.stable_after else attempt + 1

    async def _establish(self, attempt: int) -> Session:
        """Make a client and connect it, again and again; `attempt` 0 begins at once."""
        while True:
            if attempt:
                await asyncio.sleep(self._timing.delay(attempt - 1))
            session = Session(
                self._options,
                self._timing,
                inbox_prefix=self._inbox_prefix,
                on_change=self._on_change,
                make_client=self._make_client,
            )
            connected = False
            try:
                await session.open(name=self._name)
                connected = True
            except BridgeError as error:
                self._note_error(str(error))
            finally:
                if not connected:
                    await session.discard(_DISCARD_LIMIT)
            if connected:
                return session
            attempt += 1

    async def _watch(self, session: Session) -> str:
        """Return, with the reason, when the client of `session` has to be replaced."""
        timing = self._timing
        silent = 0
        lost_at: float | None = None
        began = loop_time()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(session.closed.wait(), timing.probe_interval)
            now = loop_time()
            if session.client.is_closed:
                return f"the server closed it: {session.reason or 'no reason given'}"
            if not session.client.is_connected:
                self._on_change(session)
                lost_at = lost_at or now
                if now - lost_at >= timing.reconnect_limit:
                    return f"no reconnect within {timing.reconnect_limit:g} s: {session.reason}"
                continue
            lost_at = None
            if session.inbox_denied is not None:
                if now - began >= timing.denied_inbox_retry:
                    # Only a new subscription shows whether the right was granted meanwhile.
                    return session.inbox_denied
                continue
            silent = 0 if await session.shows_life() else silent + 1
            if silent >= timing.silent_probes and session.client.is_connected:
                return f"no answer to {silent} probes in a row"

    def _adopt(self, session: Session) -> None:
        first = self.generation == 0
        self._session = session
        self._mark_up(ConnectionEvent.CONNECTED if first else ConnectionEvent.REPLACED)

    async def _give_up(self, reason: str) -> None:
        session = self._session
        self._abandon(reason)
        if session is not None:
            await session.discard(_DISCARD_LIMIT)

    def _abandon(self, reason: str) -> None:
        self._session = None
        self._note_error(f"the NATS client is replaced: {reason}")
        self._mark_down()

    def _on_change(self, session: Session) -> None:
        """Take note of what happened to a client; only the present one counts."""
        if session is not self._session:
            return
        if not session.client.is_connected:
            self._note_error(session.reason or "the connection was lost")
            self._mark_down()
        elif not self._announced_up or session.reconnects:
            session.reconnects = 0
            self._mark_up(ConnectionEvent.CONNECTED)
        if session.inbox_denied is not None:
            self._note_error(session.inbox_denied)

    def _mark_up(self, event: ConnectionEvent) -> None:
        if self._announced_up:  # the client reconnected before its loss was noticed
            self._announce(ConnectionEvent.DISCONNECTED)
        self._announced_up = True
        self.generation += 1
        self.error = None
        self._reported.clear()
        self.connected_at = datetime.now(UTC)
        url = self._session.client.connected_url if self._session else None
        logger.info("connected to NATS at %s (%s)", url.netloc if url else "?", event.value)
        self._changed.set()
        self._announce(event)

    def _mark_down(self) -> None:
        if not self._announced_up:
            return
        self._announced_up = False
        logger.warning("the connection to NATS is down: %s", self.error)
        self._changed.set()
        self._announce(ConnectionEvent.DISCONNECTED)

    def _note_error(self, text: str) -> None:
        level = logging.DEBUG if text in self._reported else logging.WARNING
        logger.log(level, "NATS at %s: %s", ", ".join(self.addresses), text)
        self._reported.add(text)
        self.error = text

    def _announce(self, event: ConnectionEvent) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:
                logger.exception("a listener of the NATS connection failed at %s", event.value)

    def explain(self) -> str:
        """Say why there is no connection."""
        if self._closed:
            return "the connection to NATS is closed"
        servers = ", ".join(self.addresses)
        return f"not connected to NATS at {servers}: {self.error or 'still trying'}"
