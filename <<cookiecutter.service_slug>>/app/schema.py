"""The database's schema: brought up to date here, and compared with what this code knows.

Migrations are the only way the schema changes. Several processes may start them at once: each
waits for the other, and the later one finds nothing to do.
"""

from __future__ import annotations

import functools

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from app.settings import ROOT


def alembic_config(database_url: str | None = None) -> Config:
    """Alembic's configuration; without an address, `migrations/env.py` takes the settings'."""
    config = Config(attributes={"database_url": database_url})
    config.set_main_option("script_location", str(ROOT / "migrations").replace("%", "%%"))
    return config


def migrate(database_url: str, *, revision: str = "head") -> None:
    """Bring the database to `revision`. Blocks, and runs a loop of its own: not for a coroutine."""
    command.upgrade(alembic_config(database_url), revision)


async def pending_migrations(engine: AsyncEngine) -> list[str]:
    """The revisions that this code has and the database lacks, oldest first.

    A revision that this code does not know belongs to a newer release which is being rolled out:
    its migrations come on top of ours, so none of ours is missing.
    """
    async with engine.connect() as connection:
        applied = await connection.run_sync(_current_revisions)
    return _missing(applied)


def _current_revisions(connection: Connection) -> tuple[str, ...]:
    return MigrationContext.configure(connection).get_current_heads()


def _missing(applied: tuple[str, ...]) -> list[str]:
    known = _known_revisions()
    if any(revision not in known for revision in applied):
        return []
    reached: set[str] = set()
    for revision in applied:
        reached.update(known[revision])
    return [revision for revision in known if revision not in reached]


@functools.cache
def _known_revisions() -> dict[str, frozenset[str]]:
    """Each revision of this code, oldest first, with itself and all that it builds on."""
    scripts = ScriptDirectory.from_config(alembic_config())
    oldest_first = list(scripts.walk_revisions())[::-1]
    return {
        script.revision: frozenset(
            ancestor.revision for ancestor in scripts.iterate_revisions(script.revision, "base")
        )
        for script in oldest_first
    }
