"""One engine and its sessions, the same for PostgreSQL and SQLite.

A request's transaction ends before its answer leaves: committed, or the client gets an error.
On SQLite a transaction that may write takes the write lock when it begins. One that reads first
and writes later would be refused whenever another process wrote in between, and waiting does
not cure that.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy import Connection, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState
from sqlmodel.ext.asyncio.session import AsyncSession

from app.settings import ROOT, Settings

_CONNECT_TIMEOUT = 5.0  # seconds; asyncpg's own is 60, longer than any caller waits
_RECYCLE = 1800  # seconds; below the hour after which firewalls forget an idle connection
_LOCK_TIMEOUT = 10_000  # milliseconds that SQLite waits for another writer
_READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Execution option: how a transaction of this engine begins on SQLite: IMMEDIATE, DEFERRED, or
# AUTOCOMMIT for one statement that reads, which needs no transaction around it.
_BEGIN = "sqlite_begin"

# Connections that are none of a handler's: the relay's transaction and its LISTEN, a lease or
# the deleting of finished rows, and the two checks of readiness.
_OWN_CONNECTIONS = 5


@dataclass(frozen=True)
class Database:
    """One pool of connections. What comes from `reading` never waits for SQLite's write lock."""

    engine: AsyncEngine
    reading: AsyncEngine
    sessions: async_sessionmaker[AsyncSession]
    readers: async_sessionmaker[AsyncSession]

    async def close(self) -> None:
        await self.engine.dispose()


def open_database(settings: Settings) -> Database:
    """Make the engine; nothing connects before the first use."""
    # A worker runs at most WORKER_CONCURRENCY handlers at once, each in one session. The API
    # gets as many again on top when requests pile up: with the default of 8, that is at most
    # 13 + 8 = 21 connections for each process of the 100 that PostgreSQL allows.
    engine = create_engine(
        settings.database_url.get_secret_value(),
        application_name=settings.app_name,
        pool_size=settings.worker_concurrency + _OWN_CONNECTIONS,
        max_overflow=settings.worker_concurrency,
    )
    reading = engine.execution_options(**{_BEGIN: "DEFERRED"})
    return Database(
        engine=engine,
        reading=reading,
        sessions=_session_factory(engine),
        readers=_session_factory(reading),
    )


def create_engine(
    address: str,
    *,
    application_name: str | None = None,
    pool_size: int = 5,
    max_overflow: int = 0,
    foreign_keys: bool = True,
) -> AsyncEngine:
    """Make an engine for `address`. `foreign_keys=False` is for migrations that rebuild a table."""
    url = _from_the_service_folder(make_url(address))
    engine = create_async_engine(
        url,
        json_serializer=_compact_json,
        pool_size=pool_size,
        max_overflow=max_overflow,
        hide_parameters=True,  # an error's text is logged, and the values may be personal
        # A database server that was restarted costs no request; a file does not restart.
        pool_pre_ping=url.get_backend_name() != "sqlite",
        pool_recycle=_RECYCLE,
        connect_args=_connect_args(url, application_name),
    )
    if url.get_backend_name() == "sqlite":
        _prepare_sqlite(engine, foreign_keys=foreign_keys)
    return engine


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """The request's session: committed after the handler, rolled back when it raises.

    Use it through `SessionDep`, whose scope ends before the answer is sent: a commit that fails
    is an error for the client too.
    """
    database: Database = request.app.state.database
    factory = database.readers if request.method in _READ_METHODS else database.sessions
    async with factory() as session:
        yield session
        await session.commit()


SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]


def _session_factory(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    # Attributes stay readable after the commit: the answer is made from them.
    return async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)


def _from_the_service_folder(url: URL) -> URL:
    """A relative path of an SQLite file means the same wherever a process is started."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database.startswith("file:"):
        return url
    return url.set(database=str(ROOT / url.database))


def _connect_args(url: URL, application_name: str | None) -> dict[str, object]:
    if url.get_backend_name() == "sqlite":
        return {}
    name = {"application_name": application_name} if application_name else {}
    return {"timeout": _CONNECT_TIMEOUT, "server_settings": name}


def _compact_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _prepare_sqlite(engine: AsyncEngine, *, foreign_keys: bool) -> None:
    """Take over from the driver when a transaction begins: it would do so at the first write."""
    pragmas = (
        f"PRAGMA busy_timeout = {_LOCK_TIMEOUT}",  # first, since the next one may have to wait
        "PRAGMA journal_mode = WAL",  # readers and the writer don't block each other
        f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}",
    )

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(pragma)
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        mode = connection.get_execution_options().get(_BEGIN, "IMMEDIATE")
        if mode != "AUTOCOMMIT":
            connection.exec_driver_sql(f"BEGIN {mode}")

    @event.listens_for(engine.sync_engine, "reset")
    def end(
        connection: DBAPIConnection, _entry: ConnectionPoolEntry, state: PoolResetState
    ) -> None:
        # A COMMIT that SQLite refuses leaves the transaction open, with the write lock, while
        # SQLAlchemy takes it for ended.
        if state.asyncio_safe and connection.driver_connection.in_transaction:
            connection.rollback()
