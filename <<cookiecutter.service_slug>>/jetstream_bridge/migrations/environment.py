"""How Alembic runs in a service: one transaction for all that is pending, on either database.

The bridge's tables are a branch of revisions of their own, labelled `jetstream_bridge`, so that an
update may bring a revision without touching the service's. `alembic upgrade heads` applies both.
A new revision continues the service's own branch, and `--autogenerate` compares its tables only.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Iterable
from logging.config import fileConfig
from pathlib import Path

from alembic import context
from alembic.operations.ops import MigrationScript
from alembic.runtime.migration import MigrationContext
from alembic.script import Script
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.ext.asyncio import AsyncEngine

from jetstream_bridge.core.database_faults import DATABASE_ERRORS, Fault, fault_of
from jetstream_bridge.service.database import create_engine, sqlite_threads_ended
from jetstream_bridge.service.fault_lines import explained
from jetstream_bridge.service.schema import BRANCH, own_versions
from jetstream_bridge.service.settings import BridgeSettings
from jetstream_bridge.service.settings_loading import load_settings

_CLOSE_WITHIN = 2.0  # seconds
_MAKES = re.compile(r"""op\.create_table\(\s*["'](\w+)["']""")
# Any number that is always the same: PostgreSQL lets one holder migrate at a time.
_LOCK = 7_203_114_885_140_077


def run_migrations(settings: type[BridgeSettings], tables: MetaData) -> None:
    """Do what Alembic was started for, with the database of `settings`; `tables` are the service's.

    Called by the service's `migrations/env.py`. Started by `alembic`, it ends the process with
    status 1 and one line where the database cannot be used.
    """
    if context.is_offline_mode():
        raise SystemExit("SQL scripts are not written here; run the migrations on a database")
    if context.config.config_file_name is None:  # started by the service
        asyncio.run(_migrate(settings, tables))
        return
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)
    try:
        asyncio.run(_migrate(settings, tables))
    except DATABASE_ERRORS as error:
        # An error of a migration itself is told whole: somebody has to mend it.
        if fault_of(error) in (Fault.EVENT, Fault.SCHEMA):
            raise
        line = explained(error, load_settings(settings))
    else:
        return
    raise SystemExit(line)


async def _migrate(settings: type[BridgeSettings], tables: MetaData) -> None:
    engine = _engine(settings)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_run, tables)
    finally:
        await engine.dispose()
        await sqlite_threads_ended(_CLOSE_WITHIN)


def _engine(cls: type[BridgeSettings]) -> AsyncEngine:
    """Without limits: a migration takes as long as it takes."""
    given = context.config.attributes.get("database_url")
    # With foreign keys on, SQLite would empty the referring rows of a table that is made anew.
    if given:
        return create_engine(given, folder=cls.root, foreign_keys=False)
    settings = load_settings(cls)
    return create_engine(
        settings.database_url.get_secret_value(),
        folder=settings.root,
        foreign_keys=False,
        pooled=settings.database_is_pooled,
    )


def _run(connection: Connection, tables: MetaData) -> None:
    on_sqlite = connection.dialect.name == "sqlite"
    made_here = functools.cache(_made_here)

    def is_ours(name: str | None, kind: str, _parents: object) -> bool:
        """Compare the tables of this service only; a database may hold others', which stay."""
        return kind != "table" or name in tables.tables or name in made_here()

    context.configure(
        connection=connection,
        target_metadata=tables,
        include_name=is_ours,
        process_revision_directives=_continue_own_branch,
        render_as_batch=on_sqlite,  # SQLite changes a column by making the table anew
        transactional_ddl=True,  # on SQLite too: the engine begins the transaction itself
    )
    with context.begin_transaction():
        if not on_sqlite:  # SQLite's transaction holds the write lock already
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        context.run_migrations()


def _own_revisions() -> list[Script]:
    return [one for one in context.script.walk_revisions() if BRANCH not in one.branch_labels]


def _made_here() -> frozenset[str]:
    """The tables that a revision of this service made: one whose model has gone is still its."""
    texts = (Path(script.path).read_text("utf-8") for script in _own_revisions())
    return frozenset(name for found in texts for name in _MAKES.findall(found))


def _continue_own_branch(
    _context: MigrationContext,
    _revision: str | Iterable[str | None] | Iterable[str],
    directives: list[MigrationScript],
) -> None:
    """Let a new revision follow the service's newest, or begin its branch; never the bridge's.

    One that names its head keeps it. With several heads of the service's own Alembic asks.
    """
    heads = [one.revision for one in _own_revisions() if one.is_head]
    for script in directives:
        if script.head in (None, "head") and len(heads) < 2:  # None: from the command line
            script.head = heads[0] if heads else "base"
        if script.version_path is None:
            script.version_path = str(own_versions(context.script.dir))
