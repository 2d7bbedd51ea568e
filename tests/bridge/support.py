"""What the bridge's tests share: a database with its tables, and rows as SQL would write them."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Row, event, insert, make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlmodel.ext.asyncio.session import AsyncSession

from jetstream_bridge import BridgeConfig, ConnectionOptions
from jetstream_bridge.core.tables import BridgeTable
from jetstream_bridge.outbox.tables import LANES, OutboxLane
from jetstream_bridge.service.database import create_engine

Sessions = async_sessionmaker[AsyncSession]


def config(url: str, *, app: str = "orders", peer: str = "billing", **changes: Any) -> BridgeConfig:
    """Settings of a service under test: back-off and time limits are short."""
    base = BridgeConfig(
        app_name=app,
        destination_app=peer,
        env="test",
        connection=ConnectionOptions(urls=(url,)),
        backoff=(0.2,),
        publish_timeout=2.0,
        shutdown_grace=3.0,
    )
    return replace(base, **changes)


@asynccontextmanager
async def database(url: str) -> AsyncIterator[tuple[AsyncEngine, Sessions]]:
    """Yield an engine on a database with the bridge's tables, and a session factory."""
    engine = create_engine(url, pool_size=20)
    try:
        if engine.dialect.name == "sqlite":
            _copy_tables(url)
        else:
            async with engine.begin() as connection:
                await connection.run_sync(_make_tables)
        yield engine, async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)
    finally:
        await engine.dispose()


def _make_tables(connection: Connection) -> None:
    BridgeTable.metadata.create_all(connection)
    connection.execute(insert(OutboxLane), [{"lane": n} for n in range(LANES)])


def _copy_tables(url: str) -> None:
    path = make_url(url).database
    assert path is not None
    Path(path).write_bytes(_sqlite_file())


@functools.cache
def _sqlite_file() -> bytes:
    """An SQLite database with the bridge's tables, made once for all tests of this process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bridge.sqlite3")
        engine = sqlalchemy.create_engine(f"sqlite:///{path}")
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            _make_tables(connection)
            connection.commit()
        engine.dispose()
        return path.read_bytes()


async def rows(
    engine: AsyncEngine, sql: str, **parameters: object
) -> Sequence[Row[*tuple[Any, ...]]]:
    async with engine.connect() as connection:
        return (await connection.execute(text(sql), parameters)).all()


async def scalar(engine: AsyncEngine, sql: str, **parameters: object) -> Any:
    return (await rows(engine, sql, **parameters))[0][0]


def envelope(event_id: str, *, resource: str = "1", kind: str = "order", **payload: object) -> str:
    """Return an envelope's JSON as another program would write it."""
    return json.dumps(
        {
            "event_id": event_id,
            "schema_version": 1,
            "event_type": f"{kind}.changed",
            "producer": "test",
            "resource_id": resource,
            "occurred_at": "2026-01-02T03:04:05Z",
            "trace_id": "t",
            "resource_type": kind,
            "payload": payload,
        },
        separators=(",", ":"),
    )


async def enqueue(
    engine: AsyncEngine, events: Sequence[Mapping[str, str]], *, subject: str
) -> None:
    """Insert outbox rows with plain SQL that names nothing but the three columns."""
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO jetstream_outbox_events (event_id, subject, payload) "
                "VALUES (:event_id, :subject, :payload)"
                if engine.dialect.name == "sqlite"
                else "INSERT INTO jetstream_outbox_events (event_id, subject, payload) "
                "VALUES (:event_id, :subject, CAST(:payload AS json))"
            ),
            [{"subject": subject, **event} for event in events],
        )


def statements(engine: AsyncEngine) -> list[str]:
    """Return a list that every statement from now on is added to."""
    seen: list[str] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def note(conn: object, cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    return seen
