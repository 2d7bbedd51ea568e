"""Keeps the worker's transaction whole, from the claim to the commit, whatever handlers do to it.

A handler that ended it would commit the inbox rows of events that have not run, or roll back what
others did. So its end is refused where that can be done before it happens, and noticed where it
cannot; and the last statement before the COMMIT proves that this is still the same transaction.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, SessionTransaction
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge.core.commits import (
    REMEDY,
    begun,
    caught_error,
    is_aborted,
    is_alive,
    watchers,
    with_remedy,
)
from jetstream_bridge.core.errors import TransactionControlError
from jetstream_bridge.core.leases import Fence

_KEY = "jetstream_bridge.guard"  # in a session's info
_INSTEAD = (
    "the worker commits after it, and rolls back when it raises an error; "
    "use `async with session.begin_nested()` for a part that may fail"
)
_COMMENTS = r"\s*(?:(?:--[^\n]*\n|/\*.*?\*/)\s*)*"
# Statements that begin or end a transaction. Savepoints are a handler's own.
_CONTROL = re.compile(
    _COMMENTS + r"(?:COMMIT|END|ABORT|BEGIN|START\s+TRANSACTION|PREPARE\s+TRANSACTION"
    r"|ROLLBACK(?!\s+(?:WORK\s+|TRANSACTION\s+)?TO\b))\b",
    re.IGNORECASE | re.DOTALL,
)
_WHICH = "SELECT txid_current_if_assigned()"  # of PostgreSQL; fails in an aborted transaction


class TransactionGuard:
    """Watches one session's transaction. Make it before the session is used."""

    def __init__(self, session: AsyncSession, fence: Fence | None = None) -> None:
        """`fence` is asked in the last statement: who lost the lease commits nothing."""
        self._fence = fence
        self._session = session
        self._connection: Connection | None = None  # the one that the transaction began on
        self._is_begun: Callable[[], bool] = lambda: True  # asks that connection's driver
        self._used = False  # a statement was sent: the driver has begun
        self._violation: str | None = None  # what a handler did
        self._caught: DBAPIError | None = None  # the database's error before that
        self._committing = False
        self._expected: int | None = None  # the transaction's id, where the claim told it
        self._proved = False
        session.sync_session.info[_KEY] = self

    def lift(self) -> None:
        """The transaction is over; what comes on its connection is somebody else's."""
        self._session.sync_session.info.pop(_KEY, None)
        if self._connection is not None:
            watchers.pop(self._connection, None)

    @property
    def suspects(self) -> bool:
        """Whether `check` has anything to look at now that a handler has returned."""
        return self._violation is not None or self._is_gone() or self._error() is not None

    async def check(self, who: str) -> None:
        """Raise what is wrong with the transaction now that `who`, a handler, has returned."""
        if self._violation is not None or self._is_gone():
            raise self._explained(who)
        connection, caught = self._connection, self._error()
        if caught is None or connection is None:
            return
        if not await self._session.run_sync(lambda _: is_alive(connection)):
            raise with_remedy(caught)

    def cause_of(self, error: Exception) -> Exception:
        """Return what `error`, raised by a handler, comes from: an earlier one that it caught."""
        caught = self._error()
        return with_remedy(caught) if caught is not None and is_aborted(error) else error

    async def commit(self, transaction: int | None) -> None:
        """Commit; return only if the transaction of the claim, called `transaction`, is committed.

        None: the claim had nothing to write, so there is no name to compare.
        """
        self._expected = transaction
        self._committing = True
        await self._session.commit()
        if self._connection is not None and not self._proved:
            raise self._explained("one of its handlers")

    def _error(self) -> DBAPIError | None:
        if self._caught is None and self._connection is not None:
            return caught_error(self._connection)
        return self._caught

    def _is_gone(self) -> bool:
        if self._connection is None or not self._used:
            return False
        connection = self._connection
        return connection.closed or connection.invalidated or not self._is_begun()

    def _explained(self, who: str) -> Exception:
        if (caught := self._error()) is not None:
            return with_remedy(caught)
        what = self._violation or "ended the transaction behind the session's back"
        return TransactionControlError(f"{who} {what}: {_INSTEAD}")

    def _refuse(self, what: str) -> None:
        self._violation = what
        raise TransactionControlError(f"a handler {what}: {_INSTEAD}")

    # --- what happens to the session and its connection

    def _began(self, connection: Connection) -> None:
        if self._connection is None:
            self._connection = connection
            self._is_begun = begun(connection)
            watchers[connection] = self

    def _ended(self, what: str) -> None:
        if not self._committing and self._violation is None:
            self._violation, self._caught = what, self._error()

    def executing(self, statement: str) -> None:
        self._used = True
        if not self._committing and _CONTROL.match(statement):
            self._refuse(f"sent {statement.strip()[:40]!r}")

    def rolling_back(self) -> None:
        self._ended("called rollback()")

    def committing(self) -> None:
        """The last thing before the COMMIT, on the same connection."""
        if not self._committing:
            self._refuse("called commit()")
        if self._violation is not None or self._is_gone():
            raise self._explained("one of its handlers")
        connection = self._connection
        if self._used and connection is not None:
            self._ask(connection)
        self._proved = True

    def _ask(self, connection: Connection) -> None:
        on_postgres = connection.dialect.name == "postgresql"
        try:
            if self._fence is not None:
                found = self._fence.check(connection)
            elif on_postgres:
                found = connection.exec_driver_sql(_WHICH).scalar()
            else:
                return
        except DBAPIError as error:
            if not is_aborted(error):
                raise
            caught = self._error()
            raise with_remedy(caught) if caught else TransactionControlError(REMEDY) from error
        if on_postgres and self._expected not in (None, found):
            raise self._explained("one of its handlers")


@event.listens_for(Session, "after_begin")
def _after_begin(session: Session, _: SessionTransaction, connection: Connection) -> None:
    guard: TransactionGuard | None = session.info.get(_KEY)
    if guard is not None:
        guard._began(connection)


@event.listens_for(Session, "before_commit")
def _before_commit(session: Session) -> None:
    guard: TransactionGuard | None = session.info.get(_KEY)
    if guard is not None and not guard._committing and not session.in_nested_transaction():
        guard._refuse("called commit()")


@event.listens_for(Session, "after_transaction_end")
def _after_end(session: Session, ended: SessionTransaction) -> None:
    guard: TransactionGuard | None = session.info.get(_KEY)
    if guard is not None and ended.parent is None:
        guard._ended("ended the session's transaction (rollback, close, reset or `async with`)")
