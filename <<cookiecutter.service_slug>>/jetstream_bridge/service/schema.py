"""The database's schema: brought up to date here, and compared with what this code knows.

Migrations are the only way the schema changes: the service's revisions, and the bridge's on a
branch of their own. Several processes may start them at once: each waits for the other, and the
later one finds nothing to do.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script

BRANCH = "jetstream_bridge"  # the label of the bridge's revisions
_BRIDGE_VERSIONS = Path(__file__).resolve().parent.parent / "migrations" / "versions"


def own_versions(migrations: str | Path) -> Path:
    """The folder of the service's revisions below its folder `migrations`."""
    return Path(migrations) / "versions"


def alembic_config(root: Path, database_url: str | None = None) -> Config:
    """Alembic's configuration; without an address, `migrations/env.py` takes the settings'."""
    from alembic.config import Config  # with all dialects of SQLAlchemy: only where it is used

    config = Config(attributes={"database_url": database_url})
    folder = root / "migrations"
    locations = f"{own_versions(folder)}\n{_BRIDGE_VERSIONS}"
    config.set_main_option("script_location", _literal(folder))
    config.set_main_option("version_locations", _literal(locations))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("revision_environment", "true")
    return config


def _literal(value: object) -> str:
    return str(value).replace("%", "%%")  # configparser takes a single one for a placeholder


def migrate(root: Path, database_url: str, *, revision: str = "heads") -> None:
    """Bring the database to `revision`. Blocks, and runs a loop of its own: not for a coroutine."""
    from alembic import command

    command.upgrade(alembic_config(root, database_url), revision)


async def pending_migrations(root: Path, engine: AsyncEngine) -> list[str]:
    """The revisions that this code has and the database lacks, oldest first.

    A revision that this code does not know belongs to a newer release which is being rolled out:
    its migrations come on top of ours, so none of ours is missing.
    """
    async with engine.connect() as connection:
        applied = await connection.run_sync(_current_revisions)
    return _missing(_known_revisions(root), applied)


def _current_revisions(connection: Connection) -> tuple[str, ...]:
    from alembic.runtime.migration import MigrationContext

    return MigrationContext.configure(connection).get_current_heads()


def _missing(known: dict[str, frozenset[str]], applied: tuple[str, ...]) -> list[str]:
    if any(revision not in known for revision in applied):
        return []
    reached: set[str] = set()
    for revision in applied:
        reached.update(known[revision])
    return [revision for revision in known if revision not in reached]


@functools.cache
def _known_revisions(root: Path) -> dict[str, frozenset[str]]:
    """Each revision of this code, oldest first, with itself and all that it builds on."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(alembic_config(root))
    known: dict[str, frozenset[str]] = {}
    for script in list(scripts.walk_revisions())[::-1]:
        below = (known[parent] for parent in _parents(script))
        known[script.revision] = frozenset({script.revision}).union(*below)
    return known


def _parents(script: Script) -> list[str]:
    """The revisions that `script` follows, and those that it depends on in another branch."""
    named = (script.down_revision, script.dependencies)
    return [one for some in named if some for one in ((some,) if isinstance(some, str) else some)]
