"""The migrations lead from nothing to the tables of the code, and back."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import multiprocessing
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine.interfaces import ReflectedIndex
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession

import app.models  # noqa: F401 - puts the example's table on the metadata
from app.settings import ROOT
from jetstream_bridge.core.tables import BridgeTable
from jetstream_bridge.outbox.tables import OutboxEvent, OutboxStatus
from jetstream_bridge.service.database import create_engine
from jetstream_bridge.service.schema import BRANCH, alembic_config, migrate, pending_migrations

TABLES = {**BridgeTable.metadata.tables, **SQLModel.metadata.tables}


@contextlib.asynccontextmanager
async def _engine(url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(url)
    try:
        yield engine
    finally:
        await engine.dispose()


def _tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names()) - {"alembic_version"}


def _text(index: ReflectedIndex) -> str:
    options = {key: str(value) for key, value in index.get("dialect_options", {}).items()}
    return f"{index['name']} {index['column_names']} {options}"


def _described(connection: Connection) -> dict[str, object]:
    """Everything the database tells about its tables, defaults and generated columns included."""
    inspector = inspect(connection)
    return {
        name: {
            # By name: a migration adds a column behind those that are there.
            "columns": {
                column["name"]: column | {"type": str(column["type"])} for column in columns
            },
            "key": inspector.get_pk_constraint(name),
            "indexes": sorted(_text(index) for index in inspector.get_indexes(name)),
            "unique": sorted(map(repr, inspector.get_unique_constraints(name))),
            "checks": sorted(map(repr, inspector.get_check_constraints(name))),
        }
        for name in _tables(connection)
        for columns in [inspector.get_columns(name)]
    } | {"triggers": _triggers(connection), "options": _options(connection)}


def _options(connection: Connection) -> list[str]:
    """How PostgreSQL stores and vacuums the bridge's tables."""
    if connection.dialect.name != "postgresql":
        return []
    found = connection.exec_driver_sql(
        "SELECT relname, reloptions FROM pg_class WHERE reloptions IS NOT NULL "
        "AND relnamespace = 'public'::regnamespace ORDER BY 1"
    )
    return [f"{name} {sorted(options)}" for name, options in found]


_TRIGGERS = {
    "postgresql": """
        SELECT pg_get_triggerdef(t.oid), p.prosrc
          FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
         WHERE NOT t.tgisinternal ORDER BY 1""",
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY 1",
}


def _triggers(connection: Connection) -> list[str]:
    """What the triggers do, but for blanks."""
    found = connection.exec_driver_sql(_TRIGGERS[connection.dialect.name])
    return [" ".join(" ".join(row).split()) for row in found]


async def test_upgrading_an_empty_database_leaves_no_difference_to_the_services_models(
    migrated_url: str,
) -> None:
    # Raises when `alembic revision --autogenerate` would find something to write.
    await asyncio.to_thread(command.check, alembic_config(ROOT, migrated_url))


async def test_the_bridges_revisions_leave_no_difference_to_its_models(migrated_url: str) -> None:
    def differences(connection: Connection) -> list[object]:
        names = BridgeTable.metadata.tables
        ours = {"include_name": lambda name, kind, _: kind != "table" or name in names}
        context = MigrationContext.configure(connection, opts=ours)
        return list(compare_metadata(context, BridgeTable.metadata))

    async with _engine(migrated_url) as engine, engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_tables_of_others_in_the_same_database_are_left_alone(
    migrated_url: str, tmp_path: Path
) -> None:
    async with _engine(migrated_url) as engine, engine.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE theirs (id INTEGER PRIMARY KEY)")
        await connection.exec_driver_sql("CREATE INDEX ix_theirs ON theirs (id)")
        await connection.exec_driver_sql(
            "CREATE TABLE their_lines (id INTEGER PRIMARY KEY, of INTEGER REFERENCES theirs (id))"
        )

    await asyncio.to_thread(command.check, alembic_config(ROOT, migrated_url))
    written = await asyncio.to_thread(_revision, migrated_url, tmp_path)
    assert "their" not in written
    assert "drop_" not in written


def test_a_table_whose_model_has_gone_is_still_dropped(own: Service) -> None:
    own.write("made", create="once_ours")
    command.upgrade(own.config, "heads")

    assert 'drop_table("once_ours")' in own.autogenerated("next")


def _revision(url: str, folder: Path) -> str:
    """What `alembic revision --autogenerate` writes."""
    config = alembic_config(ROOT, url)
    _add_location(config, folder)
    command.revision(config, "next", autogenerate=True, version_path=str(folder), rev_id="next")
    (written,) = folder.glob("next_*.py")
    return written.read_text()


def _add_location(config: Config, folder: Path) -> None:
    there = config.get_main_option("version_locations")
    config.set_main_option("version_locations", f"{there}\n{folder}")


# --- a service's own chain beside the bridge's branch


_NOT_SAID: Any = None  # what `alembic revision` hands over where nobody names a head


class Service:
    """A service without the example: its own revisions in a folder of its own, on SQLite."""

    def __init__(self, root: Path, url: str) -> None:
        self.root, self.url = root, url
        self.versions = root / "migrations" / "versions"
        self.versions.mkdir(parents=True)
        for name in ("env.py", "script.py.mako"):
            shutil.copy(ROOT / "migrations" / name, root / "migrations")
        self.config = alembic_config(root, url)

    def write(self, revision: str, *, after: str | None = None, create: str) -> None:
        """Write a revision that makes a table."""
        (self.versions / f"{revision}.py").write_text(
            f"revision = {revision!r}\ndown_revision = {after!r}\n"
            "import sqlalchemy as sa\nfrom alembic import op\n"
            f'def upgrade(): op.create_table("{create}", sa.Column("id", sa.Integer))\n'
            f'def downgrade(): op.drop_table("{create}")\n'
        )

    def autogenerated(self, revision: str) -> str:
        """Run `alembic revision --autogenerate`; return what it wrote, in its own folder."""
        command.revision(self.config, "of ours", autogenerate=True, rev_id=revision, head=_NOT_SAID)
        return (self.versions / f"{revision}_of_ours.py").read_text().replace("'", '"')

    def tables(self) -> set[str]:
        engine = sa.create_engine(self.url.replace("+aiosqlite", ""))
        try:
            with engine.connect() as connection:
                return _tables(connection)
        finally:
            engine.dispose()


@pytest.fixture
def own(tmp_path: Path, sqlite_url: str) -> Service:
    return Service(tmp_path / "service", sqlite_url)


def test_the_first_revision_of_a_service_begins_a_branch_of_its_own(own: Service) -> None:
    command.upgrade(own.config, "heads")

    written = own.autogenerated("first")

    assert "down_revision = None" in written
    assert '"customers"' in written, "the service's table"
    assert "jetstream_" not in written, "never the bridge's"
    command.upgrade(own.config, "heads")
    assert own.tables() == set(TABLES)


def test_a_service_with_revisions_of_its_own_takes_one_of_the_bridge_without_a_merge(
    own: Service, tmp_path: Path
) -> None:
    """An update of the package brings a revision; no file of the service is edited for it."""
    for revision, after in (("a", None), ("b", "a"), ("c", "b")):
        own.write(revision, after=after, create=f"own_{revision}")
    command.upgrade(own.config, "heads")
    before = sorted(path.name for path in own.versions.glob("*.py"))
    update = tmp_path / "update"
    update.mkdir()
    (update / "bridge_9999.py").write_text(
        'revision = "bridge_9999"\ndown_revision = "bridge_0004"\n'
        "import sqlalchemy as sa\nfrom alembic import op\n"
        'def upgrade(): op.create_table("jetstream_news", sa.Column("id", sa.Integer))\n'
        'def downgrade(): op.drop_table("jetstream_news")\n'
    )
    _add_location(own.config, update)

    command.upgrade(own.config, "heads")

    assert own.tables() == {*BridgeTable.metadata.tables, "jetstream_news"} | {
        f"own_{one}" for one in "abc"
    }
    written = own.autogenerated("d")
    assert 'down_revision = "c"' in written
    assert "jetstream_" not in written
    assert sorted(path.name for path in own.versions.glob("*.py")) == sorted(
        [*before, "d_of_ours.py"]
    )


async def test_a_database_of_the_first_layout_lacks_the_bridges_news_only(
    database_url: str,
) -> None:
    """There the example's revision followed the bridge's first, and the version was 0002 alone."""
    config = alembic_config(ROOT, database_url)
    await asyncio.to_thread(command.upgrade, config, "0002")
    async with _engine(database_url) as engine:
        async with engine.begin() as connection:
            await connection.execute(text("DELETE FROM alembic_version"))
            await connection.execute(text("INSERT INTO alembic_version VALUES ('0002')"))
        assert await pending_migrations(ROOT, engine) == [
            "bridge_0002",
            "bridge_0003",
            "bridge_0004",
        ]

    await asyncio.to_thread(migrate, ROOT, database_url)

    async with _engine(database_url) as engine:
        assert await pending_migrations(ROOT, engine) == []


async def test_migrations_make_exactly_the_tables_that_the_models_describe(
    migrated_url: str,
) -> None:
    async with _engine(migrated_url) as engine:
        async with engine.connect() as connection:
            migrated = await connection.run_sync(_described)
        await asyncio.to_thread(command.downgrade, alembic_config(ROOT, migrated_url), "base")
        async with engine.begin() as connection:
            for metadata in (BridgeTable.metadata, SQLModel.metadata):
                await connection.run_sync(metadata.create_all)
            assert await connection.run_sync(_described) == migrated


async def test_downgrading_removes_every_table_and_upgrading_again_works(
    migrated_url: str,
) -> None:
    await asyncio.to_thread(command.downgrade, alembic_config(ROOT, migrated_url), "base")

    async with _engine(migrated_url) as engine, engine.connect() as connection:
        assert await connection.run_sync(_tables) == set()
    await asyncio.to_thread(migrate, ROOT, migrated_url)
    async with _engine(migrated_url) as engine, engine.connect() as connection:
        assert await connection.run_sync(_tables) == set(TABLES)


async def test_the_bridges_newest_revision_can_be_taken_back_alone(migrated_url: str) -> None:
    down = f"{BRANCH}@-1"
    await asyncio.to_thread(command.downgrade, alembic_config(ROOT, migrated_url), down)

    async with _engine(migrated_url) as engine:
        assert len(await pending_migrations(ROOT, engine)) == 1
        await asyncio.to_thread(migrate, ROOT, migrated_url)
        assert await pending_migrations(ROOT, engine) == []


async def test_all_migrations_are_pending_in_an_empty_database(database_url: str) -> None:
    async with _engine(database_url) as engine:
        pending = await pending_migrations(ROOT, engine)

    assert sorted(pending) == ["0001", "0002", "bridge_0002", "bridge_0003", "bridge_0004"]
    assert pending.index("0001") < pending.index("bridge_0002")


async def test_a_newer_release_may_have_migrated_already(migrated_url: str) -> None:
    async with _engine(migrated_url) as engine:
        async with engine.begin() as connection:
            await connection.execute(
                text("UPDATE alembic_version SET version_num = '9999' WHERE version_num <> '0002'")
            )

        assert await pending_migrations(ROOT, engine) == []


@pytest.mark.real
async def test_processes_that_migrate_at_once_wait_for_each_other(database_url: str) -> None:
    loop = asyncio.get_running_loop()
    with concurrent.futures.ProcessPoolExecutor(
        max_workers=3, mp_context=multiprocessing.get_context("spawn")
    ) as processes:
        await asyncio.gather(
            *(loop.run_in_executor(processes, migrate, ROOT, database_url) for _ in range(3))
        )

    async with _engine(database_url) as engine:
        assert await pending_migrations(ROOT, engine) == []


async def test_an_outbox_row_needs_only_what_is_in_the_contract(migrated_url: str) -> None:
    async with _engine(migrated_url) as engine, engine.begin() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO jetstream_outbox_events (event_id, subject, payload) "
            """VALUES ('1', 'a.b', '{"resource_type":"customer","resource_id":"7"}')"""
        )
        found = await connection.execute(
            text("SELECT status, attempts, resource FROM jetstream_outbox_events")
        )
        assert tuple(found.one()) == ("pending", 0, "customer:7")


async def test_an_outbox_row_of_before_the_guarantees_survives_them(database_url: str) -> None:
    """And keeps its resource: what waits behind it must find it."""
    config = alembic_config(ROOT, database_url)
    await asyncio.to_thread(command.upgrade, config, "0001")
    async with _engine(database_url) as engine:
        async with engine.begin() as connection:
            await connection.exec_driver_sql(
                "INSERT INTO jetstream_outbox_events (event_id, subject, payload) "
                """VALUES ('1', 'a.b', '{"resource_type":"customer"}')"""
            )
        await asyncio.to_thread(command.upgrade, config, "bridge_0002")
        described = text("SELECT resource, bytes FROM jetstream_outbox_events")
        async with engine.connect() as connection:
            assert tuple((await connection.execute(described)).one()) == ("customer:", 30)
    async with _engine(database_url) as engine:
        await asyncio.to_thread(command.downgrade, config, "0001")
        async with engine.connect() as connection:
            count = text(
                "SELECT count(*) FROM jetstream_outbox_events WHERE resource = 'customer:'"
            )
            assert (await connection.execute(count)).scalar_one() == 1


async def test_an_odd_row_of_before_the_guarantees_survives_them_and_can_be_settled(
    database_url: str,
) -> None:
    """Not even as failed could it be marked, if a constraint were asked at each update."""
    config = alembic_config(ROOT, database_url)
    await asyncio.to_thread(command.upgrade, config, "0001")
    odd_time = "1764140000" if database_url.startswith("sqlite") else "'infinity'"
    async with _engine(database_url) as engine, engine.begin() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO jetstream_outbox_events (event_id, subject, payload, headers, enqueued_at)"
            f"""VALUES (' 1 ', 'a b', '{{}}', '["a", "b"]', {odd_time})"""
        )
    await asyncio.to_thread(command.upgrade, config, "heads")
    async with _engine(database_url) as engine, AsyncSession(engine) as session:
        row = (await session.exec(select(OutboxEvent))).one()
        assert (row.event_id, row.subject) == (" 1 ", "a b")
        assert abs((datetime.now(UTC) - row.enqueued_at).total_seconds()) < 600
        row.status, row.last_error = OutboxStatus.FAILED, "it is odd"
        await session.commit()


async def test_the_outbox_begins_with_sixteen_lanes(migrated_url: str) -> None:
    async with _engine(migrated_url) as engine, engine.connect() as connection:
        lanes = await connection.execute(text("SELECT count(*) FROM jetstream_outbox_lanes"))
        assert lanes.scalar_one() == 16


def test_a_new_migration_can_be_written_and_run(own: Service) -> None:
    command.revision(own.config, "orders", rev_id="new", head=_NOT_SAID)
    command.upgrade(own.config, "heads")

    written = (own.versions / "new_orders.py").read_text()
    assert "import sqlmodel" in written, "for the types that autogenerate writes"


@pytest.mark.parametrize("table", sorted(TABLES))
def test_every_constraint_has_a_name(table: str) -> None:
    for constraint in TABLES[table].constraints:
        assert constraint.name, f"{table}: {constraint!r}"
