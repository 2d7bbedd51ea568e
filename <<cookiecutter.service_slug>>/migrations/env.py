"""How Alembic runs here: one transaction for all that is pending, on either database."""

from __future__ import annotations

import asyncio
from logging.config import fileConfig

from alembic import context
from sqlalchemy import Connection, text
from sqlmodel import SQLModel

import app.bridge
import app.models  # noqa: F401 - these imports put their tables on the metadata
from app.database import create_engine
from app.settings import load_settings

# Any number that is always the same: PostgreSQL lets one holder migrate at a time.
_LOCK = 7_203_114_885_140_077


def _address() -> str:
    given = context.config.attributes.get("database_url")
    return given or load_settings().database_url.get_secret_value()


def _run(connection: Connection) -> None:
    on_sqlite = connection.dialect.name == "sqlite"
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        render_as_batch=on_sqlite,  # SQLite changes a column by making the table anew
        transactional_ddl=True,  # on SQLite too: the engine begins the transaction itself
    )
    with context.begin_transaction():
        if not on_sqlite:  # SQLite's transaction holds the write lock already
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        context.run_migrations()


async def _migrate() -> None:
    # With foreign keys on, SQLite would empty the referring rows of a table that is made anew.
    engine = create_engine(_address(), foreign_keys=False)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_run)
    finally:
        await engine.dispose()


if context.config.config_file_name is not None:  # started by `alembic`, not by the service
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)
if context.is_offline_mode():
    raise SystemExit("SQL scripts are not written here; run the migrations on a database")
asyncio.run(_migrate())
