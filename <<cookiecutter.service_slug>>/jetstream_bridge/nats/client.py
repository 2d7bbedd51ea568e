"""nats-py's client, with what it lacks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.limits import bounded
from jetstream_bridge.events.headers import parse_block

logger = logging.getLogger(__name__)

# What takes subject, reply, payload and the block of headers of a message, as they came.
Reader = Callable[[bytes, bytes, bytes, bytes | None], None]


class GuardedClient(Client):
    """nats-py's client with what it lacks: it refuses plaintext where TLS was asked for, and no
    message ends its read loop."""

    def __init__(self, *, tls_demanded: bool) -> None:
        super().__init__()
        self._tls_demanded = tls_demanded
        self._readers: dict[int, Reader] = {}

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """Look at the server's greeting: the last moment before the login is sent."""
        if initial_connection and self._tls_demanded and not info.get("tls_required"):
            if not info.get("tls_available"):
                raise nats.errors.Error(
                    "the server does not offer TLS, which a tls:// address or NATS_TLS_CA demands"
                )
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)

    async def _process_connect_init(self) -> None:
        """Greet a server. A try before may have got this far: nats-py forgets what it began then,
        and a second ping task would take a connection that is well for a dead one."""
        self._end_own_tasks()
        await super()._process_connect_init()

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        """Read a peer's headers: nats-py's own reader raises on some, and loses all of others."""
        return (parse_block(headers) or None) if headers else None

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        """Pass a message on. What is raised here would end the read loop, and be raised again at
        each redelivery."""
        try:
            reader = self._readers.get(sid)
            if reader is None:
                await super()._process_msg(sid, subject, reply, data, headers)
                return
            self.stats["in_msgs"] += 1
            self.stats["in_bytes"] += len(data)
            reader(subject, reply, data, headers)
        except Exception:
            logger.exception("a message on %r could not be passed on", subject)

    async def subscribe_reader(self, subject: str, reader: Reader) -> Subscription:
        """Have `reader` called with each message on `subject`, while the socket is read.

        It costs a fifth of a subscription's queue, task and message. `reader` must be short. It
        gets what the server says itself too: statuses such as 503, no responders.
        """
        subscription = await self.subscribe(subject)
        self._readers[subscription._id] = reader
        return subscription

    async def unsubscribe_reader(self, subscription: Subscription) -> None:
        """End it: what still comes for it is dropped."""
        self._readers.pop(subscription._id, None)
        await subscription.unsubscribe()

    def message(
        self, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        """Return what a reader was called with as a message that can be answered."""
        return Msg(self, subject.decode(), reply.decode(), data, headers)

    async def ack(self, messages: Iterable[Msg]) -> None:
        """Acknowledge messages of JetStream, all of them with one write to the socket."""
        for msg in messages:
            self.send(msg.reply, "", b"", b"")
            msg._ackd = True
        await self.flush_sent()

    def send(self, subject: str, reply: str, headers: bytes, payload: bytes) -> None:
        """Put a message into the client's buffer as `publish` does; `flush_sent` sends it.

        `headers` is a block as it travels, or empty. The caller has checked it and the subject,
        at which `publish` would look again. Raises what `publish` raises about the connection.
        """
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        if self.is_draining_pubs:
            raise nats.errors.ConnectionDrainingError
        size = len(headers) + len(payload)
        if not self.is_connected and size + self._pending_data_size > self._max_pending_size:
            raise nats.errors.OutboundBufferLimitError
        sizes = f"{len(headers)} {size}" if headers else size
        line = f"{'HPUB' if headers else 'PUB'} {subject} {reply} {sizes}\r\n".encode()
        command = b"".join((line, headers, payload, b"\r\n"))
        self._pending.append(command)
        self._pending_data_size += len(command)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(payload)

    async def flush_sent(self) -> None:
        """Have the buffer written to the socket; wait for that only when it is over its limit."""
        full = self._pending_data_size > self._max_pending_size > 0
        if full or (self._flush_queue is not None and self._flush_queue.empty()):
            await self._flush_pending(force_flush=full)

    async def ping(self, limit: float) -> None:
        """Return when the server we are connected to has answered; it needs no right for that.

        Raises `TimeoutError` after `limit` seconds. The client's own `flush` and `rtt` cancel what
        waits for a late answer, and that answer then ends the client's read loop.
        """
        answered = asyncio.get_running_loop().create_future()
        deadline = loop_time() + limit
        await bounded(self._send_ping(answered), limit)
        await asyncio.wait({answered}, timeout=max(0.0, deadline - loop_time()))
        if not answered.done():
            raise TimeoutError(f"no answer to a ping within {limit:g} s")

    async def withdraw(self, subscription: Subscription) -> None:
        """Have the server send no more; what is on its way still reaches the subscription."""
        await self._send_unsubscribe(subscription._id)

    def abort(self) -> None:
        """Cut the socket without waiting for what could not be sent, and end what ran for it.

        A `close` that fails midway leaves a task behind for each subscription, which keeps the
        whole client; one that meets a reconnection ends no task that this has just begun.
        """
        self._end_own_tasks()
        _cancel(self._reconnection_task)
        for subscription in self._subs.values():
            if subscription._wait_for_msgs_task is not None:
                subscription._wait_for_msgs_task.cancel()
        self._subs.clear()
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    def _end_own_tasks(self) -> None:
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            _cancel(task)


def _cancel(task: asyncio.Task[None] | None) -> None:
    if task is not None and task is not asyncio.current_task():
        task.cancel()
