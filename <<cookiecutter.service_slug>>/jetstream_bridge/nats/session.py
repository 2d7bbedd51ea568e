"""One nats-py client from its first byte to its last, and what the server told it.

Every wait on the client ends: its calls run as tasks of their own, which are left behind when
they outlast their limit, because nats-py swallows cancellation in places and waits for ever in
others. Its callbacks never raise: one that does ends the client's read loop or its reconnecting.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any, Protocol

import nats.errors
from nats.aio.client import Server
from nats.aio.msg import Msg

from jetstream_bridge.core.clock import loop_time
from jetstream_bridge.core.errors import (
    NatsConnectionError,
    NoRespondersError,
    NotConnectedError,
    PermissionDeniedError,
    RequestTimeoutError,
)
from jetstream_bridge.core.limits import Timing, bounded, leave
from jetstream_bridge.nats.client import GuardedClient
from jetstream_bridge.nats.options import NatsOptions

logger = logging.getLogger(__name__)

_DENIAL_KEPT = 120.0  # seconds; a right that was granted shows only by no new refusal
_DENIAL = re.compile(r'permissions violation for (?P<kind>\w+) to "(?P<subject>[^"]+)"', re.I)


class ClientFactory(Protocol):
    """What makes the client of each session: the class above, or one that needs no server."""

    def __call__(self, *, tls_demanded: bool) -> GuardedClient: ...


class Session:
    """A client, its callbacks and its requests.

    `on_change` is called, with the session, when the client was lost, came back or closed.
    """

    def __init__(
        self,
        options: NatsOptions,
        timing: Timing,
        *,
        inbox_prefix: str | None,
        on_change: Callable[[Session], None],
        make_client: ClientFactory,
    ) -> None:
        self.client = make_client(tls_demanded=options.tls_demanded)
        self.closed = asyncio.Event()
        self.reason: str | None = None  # the last error that the client reported
        self.reconnects = 0
        self.inbox_denied: str | None = None
        self._options = options
        self._timing = timing
        self._inbox_prefix = inbox_prefix or "_INBOX"
        self._on_change = on_change
        self._attempt = 0
        self._violations = 0
        # The rights that the server said are missing, in lower case as it says them; and until
        # when that counts.
        self._denied: dict[str, float] = {}
        self._waiting: dict[str, set[asyncio.Future[NatsConnectionError]]] = {}

    async def open(self, *, name: str) -> None:
        """Connect to one of the servers, trying each; raise `NatsConnectionError` if none lets us.

        nats-py's own loop is allowed one round only, so that this one decides about pauses; once
        connected it may reconnect without end.
        """
        arguments = self._options.arguments()
        timing = self._timing
        connecting = self.client.connect(
            **arguments,
            name=name,
            inbox_prefix=self._inbox_prefix,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_reconnected,
            closed_cb=self._on_closed,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=timing.reconnect_min,  # type: ignore[arg-type]
            connect_timeout=timing.connect_timeout,  # type: ignore[arg-type]
            ping_interval=timing.ping_interval,  # type: ignore[arg-type]
            flush_timeout=timing.flush_timeout,
            reconnect_to_server_handler=self._choose_server,
        )
        limit = 5 * timing.connect_timeout * len(arguments["servers"])
        try:
            await bounded(connecting, limit)
        except nats.errors.NoServersError as error:
            raise NatsConnectionError(self.reason or "no server answers") from error
        except TimeoutError as error:
            raise NatsConnectionError(self.reason or f"no connection within {limit:g} s") from error
        except Exception as error:
            raise NatsConnectionError(self._options.describe(error)) from error
        self.client.options["allow_reconnect"] = True
        self.client.options["max_reconnect_attempts"] = -1

    async def request(self, subject: str, payload: bytes, *, limit: float) -> Msg:
        """Ask on `subject`; do not wait for an answer that will not come.

        That is so when the server refuses the subject, and when the connection is lost.
        """
        if self.inbox_denied is not None:
            raise PermissionDeniedError(self.inbox_denied)
        failure: asyncio.Future[NatsConnectionError] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(subject.lower(), set())
        waiting.add(failure)
        reply = asyncio.create_task(self.client.request(subject, payload, timeout=limit))
        either: set[asyncio.Future[Any]] = {reply, failure}
        try:
            await asyncio.wait(either, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if failure.done():
                if denial := self.denial(subject):  # as it is written, and has to be granted
                    raise PermissionDeniedError(denial)
                raise failure.result()
            if not reply.done():
                raise RequestTimeoutError(f"no answer on {subject} within {limit:g} s")
            return _result(reply, subject, limit)
        finally:
            leave(reply)
            failure.cancel()
            waiting.discard(failure)
            if not waiting and self._waiting.get(subject.lower()) is waiting:
                del self._waiting[subject.lower()]

    def denial(self, subject: str) -> str | None:
        """What the server said lately when it refused `subject` to this client, if it did.

        All acknowledgements of a durable count as one, `$JS.ACK.{stream}.{durable}.>`.
        """
        if self.inbox_denied is not None:
            return self.inbox_denied
        if loop_time() < self._denied.get(subject.lower(), 0.0):
            return self._not_permitted(subject)
        return None

    async def ping(self, limit: float) -> None:
        """Return when the server has answered; raise `NatsConnectionError` if it does not."""
        try:
            await self.client.ping(limit)
        except TimeoutError as error:
            raise RequestTimeoutError(f"no answer to a ping within {limit:g} s") from error
        except Exception as error:  # nats-py has no transport, or half of one
            why = self._options.describe(error)
            raise NotConnectedError(f"the connection is gone: {why}") from error

    async def shows_life(self) -> bool:
        """Say whether the server still answers this client.

        The connected server answers a ping itself, without JetStream and without a right of ours,
        so that neither a missing permission nor an absent leader looks like a dead connection.
        Anything else that came meanwhile is a sign of life as well.
        """
        heard = self._heard
        try:
            await self.ping(self._timing.probe_timeout)
        except NatsConnectionError as error:
            logger.debug("no sign of life from NATS: %s", error)
            return self._heard != heard
        return True

    async def discard(self, limit: float) -> None:
        """Close the client within `limit` seconds, and cut its socket in any case."""
        try:
            await bounded(self.client.close(), limit)
        except Exception as error:
            logger.debug("closing a NATS client: %s", self._options.describe(error))
        finally:
            self.client.abort()

    @property
    def _heard(self) -> tuple[int, int]:
        return self.client.stats["in_msgs"], self._violations

    def _choose_server(
        self, servers: list[Server], info: dict[str, Any]
    ) -> tuple[Server | None, float]:
        """Pick where to reconnect to: the server that failed least often, after a growing pause."""
        rounds = self._attempt // max(1, len(servers))
        self._attempt += 1
        return min(servers, key=lambda server: server.reconnects), self._timing.delay(rounds)

    async def _on_error(self, error: Exception) -> None:
        if denial := _DENIAL.search(str(error)):
            self._note_denial(denial["kind"].lower(), denial["subject"].lower())
        text = self._options.describe(error)
        # What happens while connecting is reported by whoever decides about the next try.
        new = self.client.is_connected and text != self.reason
        level = logging.WARNING if new else logging.DEBUG
        self.reason = text
        logger.log(level, "NATS client: %s", text)

    async def _on_disconnected(self) -> None:
        # Rights may have changed by the time we are back: forget the refusals.
        self.inbox_denied = None
        self._denied.clear()
        lost = RequestTimeoutError("the connection was lost before the answer came")
        self._fail(tuple(self._waiting), lost)
        self._changed()

    async def _on_reconnected(self) -> None:
        self._attempt = 0
        self.reconnects += 1
        self._changed()

    async def _on_closed(self) -> None:
        self.closed.set()
        self._changed()

    def _changed(self) -> None:
        try:
            self._on_change(self)
        except Exception:
            logger.exception("a change of the NATS connection could not be passed on")

    def _note_denial(self, kind: str, subject: str) -> None:
        self._violations += 1
        if kind == "publish":
            self._denied[_right(subject)] = loop_time() + _DENIAL_KEPT
            self._fail((subject,), PermissionDeniedError(self._not_permitted(subject)))
        elif subject.startswith(self._inbox_prefix.lower() + "."):
            self.inbox_denied = (
                f"NATS does not permit this user to subscribe to {self._inbox_prefix}.>, "
                "so no answer reaches it; grant it"
            )
            self._fail(tuple(self._waiting), PermissionDeniedError(self.inbox_denied))
            self._changed()

    def _not_permitted(self, subject: str) -> str:
        text = f"NATS does not permit this user to publish on {subject}; grant it"
        return self._options.mask(text)

    def _fail(self, subjects: tuple[str, ...], error: NatsConnectionError) -> None:
        """End the requests on `subjects` (in lower case) that still wait."""
        for subject in subjects:
            for future in self._waiting.get(subject, ()):
                if not future.done():
                    future.set_result(error)


def _right(subject: str) -> str:
    """What has to be granted for `subject`: each acknowledgement has a subject of its own.

    It has nine parts, or more where the server puts domain and account before the stream's name.
    """
    tokens = subject.split(".")
    if not subject.startswith("$js.ack."):
        return subject
    stream = 2 if len(tokens) <= 9 else 4
    return ".".join(["$js.ack", *tokens[stream : stream + 2], ">"])


def _result(reply: asyncio.Task[Msg], subject: str, limit: float) -> Msg:
    try:
        return reply.result()
    except nats.errors.NoRespondersError as error:
        raise NoRespondersError(f"nobody answers on {subject}") from error
    except TimeoutError as error:
        raise RequestTimeoutError(f"no answer on {subject} within {limit:g} s") from error
    except (
        nats.errors.ConnectionClosedError,
        nats.errors.ConnectionDrainingError,
        nats.errors.ConnectionReconnectingError,
        OSError,
    ) as error:
        raise NotConnectedError(f"{subject}: the connection is gone: {error}") from error
    except nats.errors.Error as error:
        raise NatsConnectionError(f"{subject}: {error}") from error
