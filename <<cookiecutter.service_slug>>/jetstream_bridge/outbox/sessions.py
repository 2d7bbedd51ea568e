"""An event shares the fate of what was written beside it, at every depth of savepoints.

The events of a session are one list in the order of their publishing. A savepoint that begins
remembers how long the list was; one that ends without having been released cuts the list back to
that, and one that was released does nothing, so its events are those of the transaction around
it. Whether it was released is known after the fact only: its own flush may still fail.

The rows are written, and their ids drawn, at the last moment before the commit, when the
transaction already holds the locks on the rows it changed. Two transactions that change the same
row thus draw their ids in the order in which they commit, and the relay, which goes by id, cannot
tell the later change first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from sqlalchemy import Connection, Insert, TwoPhaseTransaction, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.sql.dml import ReturningInsert
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge.core.errors import SessionEndedError
from jetstream_bridge.outbox.tables import WAKE_CHANNEL, OutboxEvent

logger = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class NewEvent:
    """An event that a transaction is about to announce."""

    event_id: str
    subject: str
    body: str  # the envelope, as it will travel
    headers: dict[str, str]
    resource: str = ""  # whose order it keeps when it is sent at once; empty: nobody's
    chosen: bool = False  # the id is the caller's, so another transaction may have it too


@dataclass(slots=True)
class _Pending:
    """The events of one session's transaction, and what is known of its savepoints."""

    outbox: Outbox
    events: list[NewEvent] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    # How many events there were when a savepoint began. One that is older than the first event
    # is not here: there were none.
    marks: dict[SessionTransaction, int] = field(default_factory=dict)
    released: SessionTransaction | None = None  # of which the database confirmed the release
    # Commits that were begun while savepoints were open, and not yet done: a savepoint's own, or
    # that of a transaction around it, which ends its savepoints first.
    commits: int = 0
    written: bool = False  # and the commit not yet confirmed
    alone: bool = False  # published in a transaction that did nothing else
    rolled_back: bool = False  # on purpose

    def add(self, new: NewEvent) -> None:
        self.events.append(new)
        self.ids.add(new.event_id)

    def cut(self, length: int) -> list[NewEvent]:
        """Forget the events after the first `length`, and return them."""
        gone = self.events[length:]
        del self.events[length:]
        self.ids.difference_update(new.event_id for new in gone)
        return gone


_KEY = "jetstream_bridge.outbox"


class Outbox:
    """Collects a session's events and writes them when it commits."""

    def __init__(self, *, on_commit: Callable[[], None] | None = None, notify: bool = True) -> None:
        """`on_commit` is called after a commit with events; it wakes this process' relay.

        `notify` tells other processes' relays too; it costs one statement per transaction and
        is not needed where a relay runs in this process.
        """
        self._on_commit = on_commit
        self._notify = notify

    def add(self, session: AsyncSession, new: NewEvent) -> None:
        """Announce `new` when `session` commits; nothing is written before.

        Raises `SessionEndedError` when that commit has begun, when an error has ended the
        transaction, and when the session was closed for good.
        """
        pending: _Pending = session.info.setdefault(_KEY, _Pending(self))
        if pending.written:
            raise _ended("its session's commit is under way", new)
        if not session.is_active:  # objects may outlive such a transaction, and events not
            raise _ended("an error has ended its session's transaction; roll that back", new)
        if not session.in_transaction():
            _begin(session, new)
            pending.alone = True
        pending.add(new)

    def has(self, session: AsyncSession, event_id: str) -> bool:
        """Whether `session` would announce this event if it committed now."""
        pending: _Pending | None = session.info.get(_KEY)
        return pending is not None and event_id in pending.ids

    def committed(self) -> None:
        """A commit with events was confirmed."""
        if self._on_commit is not None:
            self._on_commit()

    def write(self, connection: Connection, events: list[NewEvent]) -> None:
        """Write `events` in the connection's transaction, all with one statement."""
        dialect = connection.dialect.name
        chosen = {new.event_id for new in events if new.chosen}
        rows = [
            {
                "event_id": new.event_id,
                "subject": new.subject,
                "payload": new.body,
                "headers": new.headers,
            }
            for new in events
        ]
        if chosen:
            written = connection.scalars(_insert(dialect, tell=True), rows)
            _tell_of_lost_races(chosen - set(written))
        else:
            connection.execute(_insert(dialect, tell=False), rows)
        if dialect == "postgresql" and self._notify and _may_notify(connection):
            connection.execute(_NOTIFY)


_NOTIFY = text("SELECT pg_notify(:channel, '')").bindparams(channel=WAKE_CHANNEL)


@cache  # to make it costs a quarter of what its execution does
def _insert(dialect: str, *, tell: bool) -> Insert | ReturningInsert[str]:
    """Publishing one event id twice is one event: the first row stays. `tell` which were new."""
    make = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = make(OutboxEvent).on_conflict_do_nothing(index_elements=["event_id"])
    if tell:
        return statement.returning(col(OutboxEvent.event_id))
    return statement.inline()  # nobody asks for the row's id: to read it takes as long again


def _begin(session: AsyncSession, new: NewEvent) -> None:
    """Begin a transaction, or a rollback of `session` would pass unnoticed."""
    try:
        session.sync_session.begin()
    except InvalidRequestError as error:
        raise _ended("its session was closed", new) from error


def _ended(what: str, new: NewEvent) -> SessionEndedError:
    return SessionEndedError(what, event_id=new.event_id, subject=new.subject)


def _may_notify(connection: Connection) -> bool:
    """PostgreSQL prepares no transaction that notifies: then relays find the row at their next
    look, at most a second later."""
    return not isinstance(connection.get_transaction(), TwoPhaseTransaction)


def _tell_of_lost_races(event_ids: set[str]) -> None:
    """Another transaction committed these ids after this one had looked for them.

    Its events are announced; this transaction's changes are as good as they were.
    """
    for event_id in sorted(event_ids):
        logger.warning(
            "event %s was published by another transaction meanwhile; it is announced once",
            event_id,
            extra={"event_id": event_id},
        )


def _write(session: Session, pending: _Pending) -> None:
    session.flush()  # takes the locks on the business rows before the ids are drawn
    pending.commits = 0
    pending.written = True
    pending.outbox.write(session.connection(), pending.cut(0))


@event.listens_for(Session, "after_transaction_create")
def _after_create(session: Session, begun: SessionTransaction) -> None:
    pending: _Pending | None = session.info.get(_KEY)
    if pending is not None and begun.nested:
        pending.marks[begun] = len(pending.events)


@event.listens_for(Session, "after_begin")
def _after_begin(session: Session, begun: SessionTransaction, connection: Connection) -> None:
    pending: _Pending | None = session.info.get(_KEY)
    if pending is not None:
        pending.alone = False


@event.listens_for(Session, "before_commit")
def _before_commit(session: Session) -> None:
    """With savepoints open this is one's release, or the commit of what is around them.

    The second kind ends the savepoints after this, each with a commit of its own: then the
    events are written when the last one has ended.
    """
    pending: _Pending | None = session.info.get(_KEY)
    if pending is None or not pending.events:
        return
    if session.in_nested_transaction():
        pending.commits += 1
    else:
        _write(session, pending)


@event.listens_for(Session, "after_commit")
def _after_commit(session: Session) -> None:
    pending: _Pending | None = session.info.get(_KEY)
    if pending is None:
        return
    savepoint = session.get_nested_transaction()
    if savepoint is not None:
        pending.released = savepoint
        pending.commits = max(0, pending.commits - 1)
    elif pending.written:
        pending.written = False
        pending.outbox.committed()


@event.listens_for(Session, "after_rollback")
def _after_rollback(session: Session) -> None:
    pending: _Pending | None = session.info.get(_KEY)
    if pending is not None and not session.in_nested_transaction():
        pending.rolled_back = True


@event.listens_for(Session, "after_transaction_end")
def _after_end(session: Session, ended: SessionTransaction) -> None:
    """What ended without a commit or a release takes its events with it."""
    pending: _Pending | None = session.info.get(_KEY)
    if pending is None:
        return
    if ended.nested:
        _after_savepoint(session, pending, ended)
    elif ended.parent is None:
        _after_transaction(pending)


def _after_savepoint(session: Session, pending: _Pending, ended: SessionTransaction) -> None:
    mark = pending.marks.pop(ended, 0)
    if ended is not pending.released:
        pending.cut(mark)
        pending.commits = 0
        return
    pending.released = None
    if pending.commits and pending.events and not session.in_nested_transaction():
        _write(session, pending)


def _after_transaction(pending: _Pending) -> None:
    lost = pending.cut(0)
    if lost and pending.alone and not pending.rolled_back:
        logger.warning(
            "%d events, %s first, are not announced: their session did nothing else and ended "
            "without a commit; publish before the commit, or in a session of its own",
            len(lost),
            lost[0].event_id,
            extra={"event_id": lost[0].event_id},
        )
    pending.marks.clear()
    pending.released = None
    pending.commits = 0
    pending.written = pending.alone = pending.rolled_back = False
