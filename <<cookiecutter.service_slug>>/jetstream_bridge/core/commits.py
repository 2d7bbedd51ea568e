"""A COMMIT says the truth: a transaction that an error has ended is never taken for committed.

PostgreSQL aborts a transaction at its first error, and answers the COMMIT of such a one with a
ROLLBACK and no error. SQLite ends one by itself when its disk is full, and has nothing to commit
then. Whoever caught that error and went on would be told that all was well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

REMEDY = (
    "an error of the database was caught, and the transaction went on: it had ended there; put "
    "what may fail inside `async with session.begin_nested()`"
)

_ABORTED = "25P02"  # in_failed_sql_transaction


class Watcher(Protocol):
    """Hears what happens to one connection's transaction, before it happens; may refuse it."""

    def committing(self) -> None: ...

    def rolling_back(self) -> None: ...

    def executing(self, statement: str) -> None: ...


# The first error of each transaction under way that no savepoint has taken back. Whoever adds
# something here removes it when the transaction is over: the values refer to their keys.
_errors: WeakKeyDictionary[Connection, DBAPIError] = WeakKeyDictionary()
watchers: WeakKeyDictionary[Connection, Watcher] = WeakKeyDictionary()


def honest_commits(engine: AsyncEngine) -> None:
    """See to it that a commit on `engine` raises the error that was caught before it.

    Costs a statement only where there was such an error. Doing it twice is doing it once.
    """
    target = engine.sync_engine
    if event.contains(target, "commit", _on_commit):
        return
    event.listen(target, "handle_error", _on_error)
    event.listen(target, "begin", _forget)
    event.listen(target, "rollback", _on_rollback)
    event.listen(target, "rollback_savepoint", _forget)
    event.listen(target, "before_cursor_execute", _on_statement)
    event.listen(target, "commit", _on_commit)


def caught_error(connection: Connection) -> DBAPIError | None:
    """Return the first error of the transaction under way, if nobody has rolled it back."""
    return _errors.get(connection)


def is_aborted(error: BaseException) -> bool:
    """Whether `error` says that an earlier error has ended the transaction."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == _ABORTED


def is_alive(connection: Connection) -> bool:
    """Whether the transaction under way can still be committed. Asks the server, where it must."""
    if not begun(connection)():
        return False
    try:
        connection.exec_driver_sql("SELECT 1")
    except DBAPIError as error:
        if not is_aborted(error):
            raise
        return False
    return True


def begun(connection: Connection) -> Callable[[], bool]:
    """Return what tells whether the driver is in a transaction; asking costs nothing."""
    driver: Any = connection.connection.driver_connection
    if hasattr(driver, "is_in_transaction"):  # asyncpg
        ask: Callable[[], bool] = driver.is_in_transaction
        return ask
    return lambda: bool(getattr(driver, "in_transaction", True))  # aiosqlite


def with_remedy(error: DBAPIError) -> DBAPIError:
    """Return `error` with a note for its traceback that says what to do."""
    if REMEDY not in getattr(error, "__notes__", ()):
        error.add_note(REMEDY)
    return error


def _on_error(context: ExceptionContext) -> None:
    error = context.sqlalchemy_exception or context.original_exception
    if context.connection is None or not isinstance(error, DBAPIError):
        return
    if not is_aborted(error):  # which only says that there was one before
        _errors.setdefault(context.connection, error)


def _on_statement(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
    if (watcher := watchers.get(connection)) is not None:
        watcher.executing(statement)


def _on_rollback(connection: Connection) -> None:
    if (watcher := watchers.get(connection)) is not None:
        watcher.rolling_back()
    _forget(connection)


def _on_commit(connection: Connection) -> None:
    try:
        if (watcher := watchers.get(connection)) is not None:
            watcher.committing()
        error = _errors.pop(connection, None)
        if error is not None and not is_alive(connection):
            raise with_remedy(error)
    except BaseException:
        _roll_back(connection)
        raise


def _roll_back(connection: Connection) -> None:
    """SQLAlchemy takes a transaction whose commit failed for ended, and would leave it open."""
    _errors.pop(connection, None)
    try:
        connection.dialect.do_rollback(connection.connection)
    except Exception:  # why it cannot be committed is being raised already
        connection.invalidate()


def _forget(connection: Connection, *_: object) -> None:
    _errors.pop(connection, None)
