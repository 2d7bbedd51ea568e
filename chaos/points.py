"""The named points at which a process of the service is killed, and how each is found.

They are found from outside: at the statements that go to the database, and at what goes to and
comes from NATS. So the service's code has no hook, and a point stays where it is when that code
is written anew. A process that reaches its point leaves a note and ends as `kill -9` ends it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.default import DefaultDialect

from jetstream_bridge.nats.client import GuardedClient

Reach = Callable[[], None]

_OUTBOX_ROW = "INSERT INTO jetstream_outbox_events"
_INBOX_ROW = "INSERT INTO jetstream_inbox_events"
_MARK = "SET status = 'sent'"
_REVISION = "UPDATE alembic_version SET version_num='bridge_0004'"
_EVENT, _LETTER = (".sync.billing", ".sync.dlq")


class Role(StrEnum):
    """What the process that dies was doing."""

    SERVICE = "service"
    RELAY = "relay"
    WORKER = "worker"
    REPLAY = "replay"
    MIGRATION = "migration"


@dataclass(frozen=True, slots=True)
class Point:
    """One moment. `find` arranges for `reach` to be called in it."""

    role: Role
    when: str
    find: Callable[[Reach], None]

    @property
    def name(self) -> str:
        return f"{self.role}: {self.when}"


class Death:
    """Ends this process at the `nth` time that its point is reached."""

    def __init__(self, point: Point, note: Path) -> None:
        self._note = note
        self._point = point

    def await_it(self) -> None:
        self._point.find(self._die)

    def _die(self) -> None:
        self._note.write_text(self._point.name, encoding="utf-8")
        os.kill(os.getpid(), signal.SIGKILL)


def nth(number: int, find: Callable[[Reach], None]) -> Callable[[Reach], None]:
    """The moment's `number`-th occurrence."""

    def find_nth(reach: Reach) -> None:
        left = number

        def count() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                reach()

        find(count)

    return find_nth


def _replace(owner: type, name: str, method: Callable[..., Any]) -> None:
    setattr(owner, name, method)


# --- the database


def before(part: str) -> Callable[[Reach], None]:
    """A statement with `part` is about to go to the database."""
    return _at_statement("before_cursor_execute", part)


def after(part: str) -> Callable[[Reach], None]:
    """The database has done a statement with `part`, and its transaction is still open."""
    return _at_statement("after_cursor_execute", part)


def _at_statement(when: str, part: str) -> Callable[[Reach], None]:
    def find(reach: Reach) -> None:
        def look(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
            if part in statement:
                reach()

        event.listen(Engine, when, look)

    return find


def before_commit(part: str) -> Callable[[Reach], None]:
    """The transaction that did a statement with `part` is about to be committed."""
    return lambda reach: _at_commit(part, reach, lambda: None)


def after_commit(part: str) -> Callable[[Reach], None]:
    """The transaction that did a statement with `part` has been committed, and nobody knows."""
    return lambda reach: _at_commit(part, lambda: None, reach)


def _at_commit(part: str, earlier: Reach, later: Reach) -> None:
    guilty: set[int] = set()  # the driver's connections with such a transaction

    def note(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        if part in statement:
            guilty.add(id(connection.connection.dbapi_connection))

    event.listen(Engine, "after_cursor_execute", note)
    commit = DefaultDialect.do_commit

    @wraps(commit)
    def watched(dialect: DefaultDialect, connection: Any) -> None:
        is_it = id(connection.dbapi_connection) in guilty
        if is_it:
            earlier()
        commit(dialect, connection)  # type: ignore[no-untyped-call]
        if is_it:
            guilty.discard(id(connection.dbapi_connection))
            later()

    _replace(DefaultDialect, "do_commit", watched)


# --- NATS


def sending(subject: str) -> Callable[[Reach], None]:
    """A message on a subject that ends so is about to be sent; those before it are."""
    return lambda reach: _at_send(lambda to: to.endswith(subject), reach)


def _at_send(is_it: Callable[[str], bool], reach: Reach) -> None:
    publish, send = Client.publish, GuardedClient.send

    @wraps(publish)
    async def published(client: Client, to: str, *rest: Any, **named: Any) -> None:
        if is_it(to):
            reach()
        await publish(client, to, *rest, **named)

    @wraps(send)
    def sent(client: GuardedClient, to: str, *rest: Any) -> None:
        if is_it(to):
            _write_out(client)
            reach()
        send(client, to, *rest)

    _replace(Client, "publish", published)
    _replace(GuardedClient, "send", sent)


def _write_out(client: GuardedClient) -> None:
    """Let the server have what is in the client's buffer: the process may be at its end."""
    pending = b"".join(client._pending)
    if not pending:
        return
    transport: Any = client._transport
    socket = transport._io_writer.transport.get_extra_info("socket")
    written = os.write(socket.fileno(), pending)
    assert written == len(pending), "a few messages fit into the socket's buffer"
    client._pending, client._pending_data_size = [], 0


def stored() -> Callable[[Reach], None]:
    """The stream's acknowledgement has come, and has not been read."""

    def find(reach: Reach) -> None:
        process = GuardedClient._process_msg

        @wraps(process)
        async def watched(
            client: GuardedClient, sid: int, subject: bytes, reply: bytes, data: bytes, *rest: Any
        ) -> None:
            if data.startswith(b'{"stream":'):
                reach()
            await process(client, sid, subject, reply, data, *rest)

        _replace(GuardedClient, "_process_msg", watched)

    return find


def letter_stored() -> Callable[[Reach], None]:
    """The stream has a dead letter, and its writer has not been told."""

    def find(reach: Reach) -> None:
        sent = False

        def note() -> None:
            nonlocal sent
            sent = True

        def look() -> None:
            if sent:
                reach()

        sending(_LETTER)(note)
        stored()(look)

    return find


def acknowledging(*, behind_a_letter: bool = False) -> Callable[[Reach], None]:
    """The worker is about to acknowledge an event; those before it are acknowledged."""

    def find(reach: Reach) -> None:
        ready = not behind_a_letter

        def note() -> None:
            nonlocal ready
            ready = True

        if behind_a_letter:
            letter_stored()(note)
        _at_send(lambda to: ready and to.startswith("$JS.ACK."), reach)

    return find


def giving_back() -> Callable[[Reach], None]:
    """The worker is about to give an event back."""

    def find(reach: Reach) -> None:
        nak = Msg.nak

        @wraps(nak)
        async def watched(message: Msg, *rest: Any, **named: Any) -> Any:
            reach()
            return await nak(message, *rest, **named)

        _replace(Msg, "nak", watched)

    return find


def asking(subject: str, *, answered: bool) -> Callable[[Reach], None]:
    """A request on a subject with this part is about to be sent, or has just been answered."""

    def find(reach: Reach) -> None:
        request = Client.request

        @wraps(request)
        async def watched(client: Client, to: str, *rest: Any, **named: Any) -> Msg:
            if subject in to and not answered:
                reach()
            answer = await request(client, to, *rest, **named)
            if subject in to:
                reach()
            return answer

        _replace(Client, "request", watched)

    return find


_DELETE = "STREAM.MSG.DELETE"

# What the processes do, in the order in which they do it.
POINTS = (
    Point(Role.SERVICE, "before the commit", nth(3, before_commit(_OUTBOX_ROW))),
    Point(Role.SERVICE, "after the commit", nth(3, after_commit(_OUTBOX_ROW))),
    Point(Role.RELAY, "claimed, nothing sent", sending(_EVENT)),
    Point(Role.RELAY, "some sent", nth(3, sending(_EVENT))),
    Point(Role.RELAY, "published, no acknowledgement read", stored()),
    Point(Role.RELAY, "some acknowledged", nth(3, stored())),
    Point(Role.RELAY, "acknowledged, before the mark", before(_MARK)),
    Point(Role.RELAY, "marked, before the commit", before_commit(_MARK)),
    Point(Role.RELAY, "after the commit", after_commit(_MARK)),
    Point(Role.WORKER, "events in hand", before(_INBOX_ROW)),
    Point(Role.WORKER, "inbox rows written", after(_INBOX_ROW)),
    Point(Role.WORKER, "in a handler", nth(2, after("INSERT INTO effects"))),
    Point(Role.WORKER, "before the commit", before_commit(_INBOX_ROW)),
    Point(Role.WORKER, "after the commit", after_commit(_INBOX_ROW)),
    Point(Role.WORKER, "before the first acknowledgement", acknowledging()),
    Point(Role.WORKER, "between two acknowledgements", nth(3, acknowledging())),
    Point(Role.WORKER, "before it gives an event back", giving_back()),
    Point(Role.WORKER, "before a dead letter is sent", sending(_LETTER)),
    Point(Role.WORKER, "a dead letter is stored, unread", letter_stored()),
    Point(Role.WORKER, "between letter and acknowledgement", acknowledging(behind_a_letter=True)),
    Point(Role.REPLAY, "before the event is sent", sending(_EVENT)),
    Point(Role.REPLAY, "between replay and delete", asking(_DELETE, answered=False)),
    Point(Role.REPLAY, "after the delete", asking(_DELETE, answered=True)),
    Point(Role.MIGRATION, "half way", after("ALTER TABLE jetstream_inbox_events")),
    Point(Role.MIGRATION, "before its revision is noted", before(_REVISION)),
    Point(Role.MIGRATION, "before the commit", before_commit(_REVISION)),
    Point(Role.MIGRATION, "after the commit", after_commit(_REVISION)),
)
