"""The migrations lead from nothing to the tables of the code, and back."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import multiprocessing
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine.interfaces import ReflectedIndex
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import SQLModel

import app.bridge
import app.models  # noqa: F401 - these imports put their tables on the metadata
from app.database import create_engine
from app.schema import alembic_config, migrate, pending_migrations
from app.settings import ROOT


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
            "columns": [column | {"type": str(column["type"])} for column in columns],
            "key": inspector.get_pk_constraint(name),
            "indexes": sorted(_text(index) for index in inspector.get_indexes(name)),
            "unique": sorted(map(repr, inspector.get_unique_constraints(name))),
            "checks": sorted(map(repr, inspector.get_check_constraints(name))),
        }
        for name in _tables(connection)
        for columns in [inspector.get_columns(name)]
    }


async def test_upgrading_an_empty_database_leaves_no_difference_to_the_models(
    migrated_url: str,
) -> None:
    # Raises when `alembic revision --autogenerate` would find something to write.
    await asyncio.to_thread(command.check, alembic_config(migrated_url))


async def test_migrations_make_exactly_the_tables_that_the_models_describe(
    migrated_url: str,
) -> None:
    async with _engine(migrated_url) as engine:
        async with engine.connect() as connection:
            migrated = await connection.run_sync(_described)
        await asyncio.to_thread(command.downgrade, alembic_config(migrated_url), "base")
        async with engine.begin() as connection:
            await connection.run_sync(SQLModel.metadata.create_all)
            assert await connection.run_sync(_described) == migrated


async def test_downgrading_removes_every_table_and_upgrading_again_works(
    migrated_url: str,
) -> None:
    await asyncio.to_thread(command.downgrade, alembic_config(migrated_url), "base")

    async with _engine(migrated_url) as engine, engine.connect() as connection:
        assert await connection.run_sync(_tables) == set()
    await asyncio.to_thread(migrate, migrated_url)
    async with _engine(migrated_url) as engine, engine.connect() as connection:
        assert await connection.run_sync(_tables) == set(SQLModel.metadata.tables)


async def test_the_newest_migration_can_be_taken_back_alone(migrated_url: str) -> None:
    await asyncio.to_thread(command.downgrade, alembic_config(migrated_url), "-1")

    async with _engine(migrated_url) as engine:
        assert len(await pending_migrations(engine)) == 1
        await asyncio.to_thread(migrate, migrated_url)
        assert await pending_migrations(engine) == []


async def test_all_migrations_are_pending_in_an_empty_database(database_url: str) -> None:
    async with _engine(database_url) as engine:
        pending = await pending_migrations(engine)

    assert pending[0] == "0001"


async def test_a_newer_release_may_have_migrated_already(migrated_url: str) -> None:
    async with _engine(migrated_url) as engine:
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

        assert await pending_migrations(engine) == []


@pytest.mark.real
async def test_processes_that_migrate_at_once_wait_for_each_other(database_url: str) -> None:
    loop = asyncio.get_running_loop()
    with concurrent.futures.ProcessPoolExecutor(
        max_workers=3, mp_context=multiprocessing.get_context("spawn")
    ) as processes:
        await asyncio.gather(
            *(loop.run_in_executor(processes, migrate, database_url) for _ in range(3))
        )

    async with _engine(database_url) as engine:
        assert await pending_migrations(engine) == []


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


async def test_the_outbox_begins_with_sixteen_lanes(migrated_url: str) -> None:
    async with _engine(migrated_url) as engine, engine.connect() as connection:
        lanes = await connection.execute(text("SELECT count(*) FROM jetstream_outbox_lanes"))
        assert lanes.scalar_one() == 16


def test_a_new_migration_can_be_written_and_run(sqlite_url: str, tmp_path: Path) -> None:
    config = alembic_config(sqlite_url)
    config.set_main_option("version_locations", f"{ROOT / 'migrations' / 'versions'}\n{tmp_path}")
    config.set_main_option("path_separator", "newline")

    command.revision(config, "orders", head="head", version_path=str(tmp_path), rev_id="new")
    command.upgrade(config, "head")

    (written,) = tmp_path.glob("new_orders.py")
    assert "import sqlmodel" in written.read_text(), "for the types that autogenerate writes"


@pytest.mark.parametrize("table", sorted(SQLModel.metadata.tables))
def test_every_constraint_has_a_name(table: str) -> None:
    for constraint in SQLModel.metadata.tables[table].constraints:
        assert constraint.name, f"{table}: {constraint!r}"
