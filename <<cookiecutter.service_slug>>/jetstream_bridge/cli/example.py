"""`example remove`: the service without the customers example, once its team needs it no more."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Annotated

import typer
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, inspect

from jetstream_bridge.cli import example_files
from jetstream_bridge.cli.definition import definition
from jetstream_bridge.cli.groups import group
from jetstream_bridge.cli.output import AsJson, Status, Yes, answer, confirm, fail
from jetstream_bridge.core.database_faults import DATABASE_ERRORS
from jetstream_bridge.service.database import create_engine, sqlite_threads_ended
from jetstream_bridge.service.fault_lines import explained
from jetstream_bridge.service.schema import BRANCH, alembic_config
from jetstream_bridge.service.settings import BridgeSettings
from jetstream_bridge.service.settings_loading import load_settings

_LOOK = 10.0  # seconds for a look into the database
_GIT = 10.0  # seconds
_CLOSE = 2.0  # seconds

commands = group(
    "The customers example that a service begins with.",
    example="python -m app.cli example remove",
)


@commands.callback()
def _group() -> None:
    """A group of one command would be that command."""


@commands.command(epilog="Example: python -m app.cli example remove")
def remove(
    migrated: Annotated[
        bool | None,
        typer.Option(
            "--migrated/--not-migrated",
            help="Whether any database has the example's table. Left out: this one is asked.",
        ),
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove the example: its files, its model, its tests and its table.

    Where a database has the table, a migration that drops it is written.
    """
    settings = load_settings(definition().settings_class)
    root = settings.root
    _check(root)
    drop = _revision(root) if _is_needed(migrated, settings) else None
    removal = example_files.plan(root, drop=drop)
    confirm(f"Delete {', '.join(removal.deleted)}?", yes=yes)
    try:
        removal.apply(root)
    except OSError as error:
        fail(
            f"the example is not removed whole: {error}; git status shows how far it came",
            Status.FAILED,
        )
    answer(_summary(removal, drop), _data(removal, drop), as_json=as_json)


def _check(root: Path) -> None:
    """Refuse where nothing is to be done, and where something would be lost or broken."""
    if not example_files.is_there(root):
        fail("there is no example in this service", Status.BAD_INPUT)
    try:
        used = example_files.uses(root)
    except (SyntaxError, ValueError) as error:
        fail(f"the service's code cannot be read ({error}); put that right first", Status.FAILED)
    if used:
        fail(
            f"the example is used in {', '.join(used)}; take it out there first, "
            "nothing was removed",
            Status.BAD_INPUT,
        )
    if changed := _uncommitted(root):
        fail(
            f"{', '.join(changed)} has changes that git does not have; commit or undo them first",
            Status.BAD_INPUT,
        )


def _uncommitted(root: Path) -> list[str]:
    """The files to delete whose content is nowhere else; none where git is not used."""
    command = ["git", "diff", "--name-only", "--relative", "HEAD", "--"]
    try:
        done = subprocess.run(
            [*command, *example_files.FILES, example_files.MIGRATION],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=_GIT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def _is_needed(migrated: bool | None, settings: BridgeSettings) -> bool:
    """Whether the table has to be dropped by a migration."""
    if _has_followers(settings.root):
        return True  # a migration of the team's follows the example's, which has to stay then
    if migrated is not None:
        return migrated
    try:
        return asyncio.run(_has_table(settings))
    except DATABASE_ERRORS as error:
        fail(
            f"whether a database has the table {example_files.TABLE} cannot be seen: "
            f"{explained(error, settings)}; or say it: --migrated or --not-migrated",
            Status.FAILED,
        )


async def _has_table(settings: BridgeSettings) -> bool:
    engine = create_engine(settings.database_url.get_secret_value(), folder=settings.root)

    def look(connection: Connection) -> bool:
        return inspect(connection).has_table(example_files.TABLE)

    try:
        async with asyncio.timeout(_LOOK), engine.connect() as connection:
            return await connection.run_sync(look)
    finally:
        await engine.dispose()
        await sqlite_threads_ended(_CLOSE)


def _own_revisions(root: Path) -> list[Script]:
    scripts = ScriptDirectory.from_config(alembic_config(root)).walk_revisions()
    return [script for script in scripts if BRANCH not in script.branch_labels]


def _has_followers(root: Path) -> bool:
    own = _own_revisions(root)
    name = Path(example_files.MIGRATION).name
    of_example = {one.revision for one in own if Path(one.path).name == name}
    return any(of_example.intersection(_below(one)) for one in own)


def _below(script: Script) -> set[str]:
    """What a revision follows, and what it depends on."""
    named = (script.down_revision, script.dependencies)
    return {
        one
        for names in named
        if names is not None
        for one in ([names] if isinstance(names, str) else names)
    }


def _revision(root: Path) -> tuple[str, str]:
    """The new revision's number and the one below it."""
    own = _own_revisions(root)
    heads = [one.revision for one in own if one.is_head]
    if len(heads) != 1:
        fail(
            f"the service's migrations have {len(heads)} heads ({', '.join(heads)}); "
            "join them first with alembic merge",
            Status.FAILED,
        )
    numbers = [int(one.revision) for one in own if one.revision.isdecimal()]
    return f"{max(numbers, default=1) + 1:04}", heads[0]


def _summary(removal: example_files.Removal, drop: tuple[str, str] | None) -> str:
    lines = ["Removed:", *(f"  {name}" for name in removal.deleted)]
    lines += ["Written:", *(f"  {name}" for name in removal.written), "Next:"]
    if drop:
        lines += [
            f"  1. Read revision {drop[0]}: it drops the table customers, rows and all.",
            "  2. make migrate, here and with the next release elsewhere.",
            "  3. make test",
        ]
    else:
        lines.append("  1. make test")
    return "\n".join(lines)


def _data(removal: example_files.Removal, drop: tuple[str, str] | None) -> dict[str, object]:
    return {
        "removed": list(removal.deleted),
        "written": list(removal.written),
        "drops_in_revision": drop[0] if drop else None,
    }
