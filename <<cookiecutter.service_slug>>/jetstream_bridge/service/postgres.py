"""Connections to PostgreSQL on which every wait ends, whatever the server or the network does.

The server ends what takes too long, and says so. A server or a network that says nothing more is
given up a little later from here: the connection is cut, since asyncpg would first wait for an
answer to its request to cancel. The kernel does the same for a peer that has vanished.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from typing import Any

import asyncpg
from sqlalchemy import Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

from jetstream_bridge.core.database_faults import DATABASE_ERRORS

CONNECT_TIMEOUT = 5.0  # seconds; asyncpg's own is 60, longer than any caller waits
PING_LIMIT = 2.0  # seconds for the sign of life that a connection gives before it is used
CANCEL_LIMIT = 2.0  # seconds for the server to confirm that a statement was cancelled
ANSWER_MARGIN = 2.0  # seconds after the server's own limit, in which its refusal arrives

# A peer that has vanished is noticed after some 25 s of silence, and after 20 s when it owes an
# acknowledgement. The server is asked to do the same for us: our locks end with our machine.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # seconds, and a number
_USER_TIMEOUT = 20_000  # milliseconds
_SERVER_KEEPALIVE = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": str(_USER_TIMEOUT),
}

# Behind a pooler in transaction mode the next transaction is another server connection's: no
# statement is kept between two, and the unnamed one that is used is never another client's.
_FOR_A_POOLER: dict[str, Any] = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": lambda: "",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long the server lets one thing take; all in seconds."""

    statement: float
    lock: float  # waiting for another transaction
    idle_transaction: float  # between two statements of one transaction

    @property
    def settings(self) -> dict[str, str]:
        """As the server calls them, in milliseconds."""
        return {
            "statement_timeout": _milliseconds(self.statement),
            "lock_timeout": _milliseconds(self.lock),
            "idle_in_transaction_session_timeout": _milliseconds(self.idle_transaction),
        }


def connect_args(
    *, limits: Limits | None, pooled: bool, server_settings: dict[str, str]
) -> dict[str, Any]:
    """Return what asyncpg and SQLAlchemy's side of it are told. No limits: for migrations."""
    arguments: dict[str, Any] = {"timeout": CONNECT_TIMEOUT, "connection_class": _Bounded}
    if limits is not None:
        arguments["command_timeout"] = limits.statement + ANSWER_MARGIN
    if pooled:  # a pooler refuses what it does not know when a connection begins
        return arguments | _FOR_A_POOLER | {"server_settings": server_settings}
    ours = _SERVER_KEEPALIVE | (limits.settings if limits is not None else {})
    return arguments | {"server_settings": ours | server_settings}


def watch(engine: AsyncEngine, *, limits: Limits | None, pooled: bool) -> None:
    """Have `engine` hand out connections that just answered, and bound each transaction."""
    event.listen(engine.sync_engine, "checkout", _ping)
    if pooled and limits is not None:
        _bound_each_transaction(engine, limits)


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def _ping(connection: DBAPIConnection, _entry: ConnectionPoolEntry, _proxy: object) -> None:
    """One round trip, where SQLAlchemy's own takes three and waits for as long as a statement.

    A server that was restarted costs no request: the pool connects anew, and drops the others.
    """
    try:
        connection.run_async(_shows_life)
    except DATABASE_ERRORS as error:
        raise InvalidatePoolError(f"the connection is dead: {type(error).__name__}") from error


async def _shows_life(driver: asyncpg.Connection) -> None:
    try:
        await driver.execute("SELECT 1", timeout=PING_LIMIT)
    except BaseException:
        driver.terminate()
        raise


def _bound_each_transaction(engine: AsyncEngine, limits: Limits) -> None:
    """What belongs to a session has no meaning there: it is another client's in a moment."""
    settings = (f"set_config('{name}', '{value}', true)" for name, value in limits.settings.items())
    statement = f"SELECT {', '.join(settings)}"

    @event.listens_for(engine.sync_engine, "begin")
    def bound(connection: Connection) -> None:
        connection.exec_driver_sql(statement)


class _Bounded(asyncpg.Connection):  # type: ignore[misc] # asyncpg has no types
    """asyncpg's connection, with an end to what it waits for without one."""

    __slots__ = ()

    def __init__(self, protocol: Any, transport: asyncio.Transport, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        _keep_alive(transport.get_extra_info("socket"))

    def _cancel_current_command(self, *waiters: asyncio.Future[None]) -> None:
        """Cut the connection when the server does not confirm: whoever waits goes on then."""
        super()._cancel_current_command(*waiters)
        self._loop.call_later(CANCEL_LIMIT, self._give_up, waiters)

    def _give_up(self, waiters: tuple[asyncio.Future[None], ...]) -> None:
        if not all(waiter.done() for waiter in waiters) and not self.is_closed():
            self.terminate()

    async def _cleanup_stmts(self) -> None:
        """Statements that are no longer needed are closed without a limit of asyncpg's."""
        async with asyncio.timeout(self._config.command_timeout):
            await super()._cleanup_stmts()


def _keep_alive(sock: Any) -> None:
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):  # a proxied socket may not take them; the limits remain
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (_KEEPALIVE | {"TCP_USER_TIMEOUT": _USER_TIMEOUT}).items():
            option = getattr(socket, name, None)  # not every platform has every one
            if option is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
