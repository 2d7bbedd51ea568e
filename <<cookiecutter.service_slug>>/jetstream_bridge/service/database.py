"""One engine and its sessions, the same for PostgreSQL and SQLite.

A request's transaction ends before its answer leaves: committed, or the client gets an error.
On SQLite a transaction that may write takes the write lock when it begins. One that reads first
and writes later would be refused whenever another process wrote in between, and waiting does
not cure that.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from weakref import WeakSet

from fastapi import Depends, Request
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge.core.commits import honest_commits
from jetstream_bridge.core.errors import ConfigurationError
from jetstream_bridge.service import postgres
from jetstream_bridge.service.addresses import DatabaseAddress, parse_database_address
from jetstream_bridge.service.postgres import Limits
from jetstream_bridge.service.settings import BridgeSettings

_POOL_TIMEOUT = 10.0  # seconds that one waits for a connection of the pool
_RECYCLE = 1800  # seconds; below the hour after which firewalls forget an idle connection
_LOCK_TIMEOUT = 10_000  # milliseconds that SQLite waits for another writer
_READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Execution option: how a transaction of this engine begins on SQLite: IMMEDIATE, DEFERRED, or
# AUTOCOMMIT for one statement that reads, which needs no transaction around it.
_BEGIN = "sqlite_begin"

# Connections that are none of a handler's: the relay's transaction and its LISTEN, a lease or
# the deleting of finished rows, and the two checks of readiness.
_OWN_CONNECTIONS = 6


def _compact_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


_OPTIONS: dict[str, Any] = {
    "json_serializer": _compact_json,
    "pool_size": 5,
    "max_overflow": 0,
    "hide_parameters": True,  # an error's text is logged, and the values may be personal
    "pool_timeout": _POOL_TIMEOUT,
    "pool_recycle": _RECYCLE,
}
_ours: WeakSet[Engine] = WeakSet()  # the engines made here


@dataclass(frozen=True)
class Database:
    """One pool of connections. What comes from `reading` never waits for SQLite's write lock."""

    engine: AsyncEngine
    reading: AsyncEngine
    sessions: async_sessionmaker[AsyncSession]
    readers: async_sessionmaker[AsyncSession]

    async def close(self) -> None:
        await self.engine.dispose()


def open_database(
    settings: BridgeSettings,
    *,
    engine: AsyncEngine | None = None,
    session_class: type[AsyncSession] = AsyncSession,
) -> Database:
    """Make what uses the engine, by default `engine_for(settings)`; nothing connects before the
    first use. Raises `ConfigurationError` for an engine that `engine_for` did not make."""
    engine = _checked(engine) if engine is not None else engine_for(settings)
    reading = engine.execution_options(**{_BEGIN: "DEFERRED"})
    return Database(
        engine=engine,
        reading=reading,
        sessions=_session_factory(engine, session_class),
        readers=_session_factory(reading, session_class),
    )


def engine_for(settings: BridgeSettings, **changes: Any) -> AsyncEngine:
    """Make the engine that the settings ask for; `changes` are for SQLAlchemy's
    `create_async_engine`, like `pool_size=30` or `echo=True`, and win."""
    return create_engine(
        settings.database_url.get_secret_value(),
        folder=settings.root,
        application_name=settings.app_name,
        pooled=settings.database_is_pooled,
        limits=Limits(
            statement=settings.database_statement_timeout,
            lock=settings.database_lock_timeout,
            idle_transaction=settings.database_idle_timeout,
        ),
        **_pool_for(settings) | changes,
    )


def _pool_for(settings: BridgeSettings) -> dict[str, Any]:
    # A worker runs at most WORKER_CONCURRENCY handlers at once, each in one session. The API
    # gets as many again on top when requests pile up: with the default of 8, that is at most
    # 13 + 8 = 21 connections for each process of the 100 that PostgreSQL allows.
    return {
        "pool_size": settings.worker_concurrency + _OWN_CONNECTIONS,
        "max_overflow": settings.worker_concurrency,
    }


def create_engine(
    address: str,
    *,
    folder: Path = Path(),
    application_name: str | None = None,
    foreign_keys: bool = True,
    pooled: bool = False,
    limits: Limits | None = None,
    connect_args: Mapping[str, Any] | None = None,
    **options: Any,
) -> AsyncEngine:
    """Make an engine for `address`.

    A relative path of an SQLite file is below `folder`. `foreign_keys=False` is for migrations
    that rebuild a table. `pooled`: a pooler in transaction mode stands between; the address may
    say so too. Without `limits` a statement may take as long as it takes. `connect_args` go to the
    driver beside our own, `options` to `create_async_engine`.
    """
    parsed = parse_database_address(address)
    url = _below(folder, parsed.url)
    on_postgres, pooled = url.get_backend_name() != "sqlite", pooled or parsed.parameters.pooled
    own = _connect_args(parsed, application_name, limits, pooled) if on_postgres else {}
    engine = create_async_engine(
        url, connect_args=own | dict(connect_args or {}), **_OPTIONS | options
    )
    honest_commits(engine)
    if on_postgres:
        postgres.watch(engine, limits=limits, pooled=pooled)
    else:
        _prepare_sqlite(engine, foreign_keys=foreign_keys)
    _ours.add(engine.sync_engine)
    return engine


def _checked(engine: AsyncEngine) -> AsyncEngine:
    """Another one begins and ends transactions otherwise, and breaks what the outbox promises."""
    if engine.sync_engine not in _ours:
        raise ConfigurationError(
            f"the engine {engine.url!r} was not made by engine_for(settings); use that: it takes "
            "every option of SQLAlchemy's create_async_engine"
        )
    return engine


async def sqlite_threads_ended(limit: float) -> None:
    """Wait up to `limit` seconds for each thread of a closed engine; then the loop may end.

    A connection that could not open its SQLite file ends its thread a moment later, and that
    thread's last word finds no event loop any more, which would be a traceback on the terminal.
    """
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            await asyncio.to_thread(thread.join, limit)


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


def _session_factory(
    engine: AsyncEngine, session_class: type[AsyncSession]
) -> async_sessionmaker[AsyncSession]:
    return async_sessionmaker(
        engine,
        class_=session_class,
        expire_on_commit=False,  # the answer is made from what was committed
        close_resets_only=False,  # nobody commits what is written into a request's session later
    )


def _below(folder: Path, url: URL) -> URL:
    """A relative path of an SQLite file means the same wherever a process is started."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database.startswith("file:"):
        return url
    return url.set(database=str(folder / url.database))


def _connect_args(
    address: DatabaseAddress, application_name: str | None, limits: Limits | None, pooled: bool
) -> dict[str, Any]:
    name = {"application_name": application_name} if application_name else {}
    given = address.parameters
    settings = name | given.server_settings
    own = postgres.connect_args(limits=limits, pooled=pooled, server_settings=settings)
    return own | given.arguments


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
