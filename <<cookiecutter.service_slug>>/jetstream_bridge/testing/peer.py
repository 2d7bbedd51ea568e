"""The server's end of one connection: what the client subscribed to, and what it is told."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jetstream_bridge.core.subjects import matches
from jetstream_bridge.testing.wire import Command, CommandReader, message

if TYPE_CHECKING:
    from jetstream_bridge.testing.server import MockServer

_LIMIT = 64 * 1024 * 1024  # bytes that the client has not read; nothing is ever held back


@dataclass(slots=True)
class Subscribed:
    """One subscription. `left` counts down when the client asked for so many messages only."""

    sid: str
    subject: str
    left: int | None = None


class Peer:
    """One connection. Its `reader` is what nats-py reads from."""

    def __init__(self, server: MockServer, number: int) -> None:
        self.number = number
        self.reader = asyncio.StreamReader(limit=_LIMIT)
        self.closed = False
        self._server = server
        self._commands = CommandReader()
        self._subscriptions: dict[str, Subscribed] = {}
        self._no_responders = False
        self._quiet_until = 0.0

    def greet(self, info: bytes) -> None:
        self._send(b"INFO " + info + b"\r\n")

    def receive(self, data: bytes) -> None:
        """Act on what the client wrote."""
        for command in self._commands.feed(data):
            if self.closed:
                return
            self._act(command)

    def close(self) -> None:
        """End the connection; what was sent can still be read."""
        if not self.closed:
            self.closed = True
            self._server.forget(self)
            self._subscriptions.clear()
            self.reader.feed_eof()

    def send_to(self, inbox: str, subject: str, reply: str, headers: bytes, data: bytes) -> bool:
        """Send a message to those subscriptions that want it; say whether any does."""
        wanted = [one for one in self._subscriptions.values() if matches(one.subject, inbox)]
        for one in wanted:
            self._send(message(subject, one.sid, reply, headers, data))
            if one.left is not None:
                one.left -= 1
                if one.left <= 0:
                    self._subscriptions.pop(one.sid, None)
        return bool(wanted)

    def _act(self, command: Command) -> None:
        words = command.words
        if command.name == "PING":
            self._send(b"PONG\r\n")
        elif command.name == "CONNECT":
            options = json.loads(command.text)
            self._no_responders = bool(options.get("no_responders") and options.get("headers"))
        elif command.name == "SUB":
            self._subscribe(words[0], words[-1])
        elif command.name == "UNSUB":
            self._unsubscribe(words)
        elif command.name in ("PUB", "HPUB"):
            sizes = 2 if command.name == "HPUB" else 1
            self._publish(words[0], words[1] if len(words) > 1 + sizes else "", command)

    def _subscribe(self, subject: str, sid: str) -> None:
        if self._server.faults.denied("subscription", subject):
            self._refuse("Subscription", subject)
            return
        self._subscriptions[sid] = Subscribed(sid, subject)

    def _unsubscribe(self, words: tuple[str, ...]) -> None:
        if len(words) == 1:
            self._subscriptions.pop(words[0], None)
        elif (one := self._subscriptions.get(words[0])) is not None:
            one.left = int(words[1])

    def _publish(self, subject: str, reply: str, command: Command) -> None:
        if len(command.headers) + len(command.data) > self._server.max_payload:
            self._send(b"-ERR 'Maximum Payload Violation'\r\n")
            self.close()
            return
        if self._server.faults.denied("publish", subject):
            self._refuse("Publish", subject)
            return
        taken = self._server.publish(subject, reply, command.headers, command.data)
        if not taken and reply and self._no_responders:
            self._server.no_responders(subject, reply)

    def _refuse(self, what: str, subject: str) -> None:
        self._send(f"-ERR 'Permissions Violation for {what} to \"{subject}\"'\r\n".encode())

    def _send(self, data: bytes) -> None:
        latency = self._server.faults.latency
        now = self._server.now()
        at = max(now + latency, self._quiet_until)  # nothing overtakes what was said before
        if at <= now:
            self._feed(data)
            return
        self._quiet_until = at
        asyncio.get_running_loop().call_at(at, self._feed, data)

    def _feed(self, data: bytes) -> None:
        if not self.reader.at_eof() and not self.closed:
            self.reader.feed_data(data)
