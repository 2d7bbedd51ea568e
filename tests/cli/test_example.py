"""`example remove` takes the example out whole, or says why not and changes nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli import cli
from app.settings import ROOT, Settings
from jetstream_bridge.cli.example_files import FILES, MIGRATION, NO_MODELS, without_model
from jetstream_bridge.service.schema import migrate

_MODELS = (ROOT / "app/models.py").read_text(encoding="utf-8")
_ORDER = """

class Order(SQLModel, table=True):
    __tablename__ = "orders"

    id: str = Field(default_factory=new_id, primary_key=True, max_length=255)
"""
_FOLLOWS = '''"""Orders."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table("orders", sa.Column("id", sa.String(), primary_key=True))


def downgrade() -> None:
    op.drop_table("orders")
'''


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a service as it was generated, on an SQLite that is not there yet."""
    root = tmp_path / "service"
    for name in ("app", "migrations", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(Settings, "root", root)
    for name, value in {
        "APP_NAME": "orders",
        "DESTINATION_APP": "billing",
        "DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'service.db'}",
    }.items():
        monkeypatch.setenv(name, value)
    return root


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["example", "remove", *arguments])


def files(root: Path) -> dict[str, bytes]:
    found = (path for path in root.rglob("*.py"))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def refused(root: Path, *arguments: str, status: int = 2) -> str:
    before = files(root)
    result = run("--yes", *arguments)
    assert result.exit_code == status, result.output
    assert files(root) == before
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_where_no_table_was_made_nothing_of_it_is_left(root: Path) -> None:
    before = files(root).keys()
    told = json.loads(run("--yes", "--json").stdout)

    assert {*told["removed"]} == {*FILES, MIGRATION} == before - files(root).keys()
    assert told["drops_in_revision"] is None
    assert (root / "app/models.py").read_text() == NO_MODELS
    assert "no example in this service" in refused(root)


async def test_where_the_table_was_made_a_revision_drops_it(root: Path, tmp_path: Path) -> None:
    await asyncio.to_thread(migrate, root, f"sqlite+aiosqlite:///{tmp_path / 'service.db'}")
    result = await asyncio.to_thread(run, "--yes")

    assert result.exit_code == 0, result.output
    assert "Read revision 0003: it drops the table customers, rows and all." in result.stdout
    assert (root / MIGRATION).exists()
    assert (
        'down_revision = "0002"'
        in (root / "migrations/versions/0003_drop_customers.py").read_text()
    )


def test_a_migration_that_follows_the_examples_keeps_it(root: Path) -> None:
    (root / "migrations/versions/0003_orders.py").write_text(_FOLLOWS)
    (root / "app/models.py").write_text(_MODELS + _ORDER)

    told = json.loads(run("--yes", "--not-migrated", "--json").stdout)

    assert told["drops_in_revision"] == "0004"
    assert MIGRATION not in told["removed"]
    left = (root / "app/models.py").read_text()
    assert left.endswith(_ORDER)
    assert "def new_id() -> str:" in left
    assert "Customer" not in left
    assert "def now()" not in left


def test_code_that_needs_the_example_is_named(root: Path) -> None:
    (root / "app/report.py").write_text("import json\n\nfrom app.models import Customer\n")
    (root / "tests/test_own.py").write_text("from app.routers import customers\n")
    assert "used in app/report.py:3, tests/test_own.py:1; take it out" in refused(root)


def test_edits_that_git_does_not_have_are_not_lost(root: Path) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "made"]):
        subprocess.run([*git, *command], cwd=root, check=True, timeout=30)
    path = root / FILES[1]
    path.write_text(path.read_text() + "\nOWN = 1\n")
    assert f"{FILES[1]} has changes that git does not have" in refused(root)
    assert run("--yes").exit_code == 2
    subprocess.run([*git, "commit", "-qam", "edit"], cwd=root, check=True, timeout=30)
    assert run("--yes").exit_code == 0


def test_a_database_that_does_not_answer_leaves_the_question_to_a_person(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql+asyncpg://me:hunter2@127.0.0.1:1/orders")
    said = refused(root, status=1)
    assert "or say it: --migrated or --not-migrated" in said
    assert "hunter2" not in said
    assert run("--yes", "--migrated").exit_code == 0
    assert (root / "migrations/versions/0003_drop_customers.py").exists()


def test_nobody_who_can_be_asked_has_to_say_yes(root: Path) -> None:
    before = files(root)
    result = run("--not-migrated")
    assert result.exit_code == 2
    assert "add --yes" in result.stderr
    assert files(root) == before


def test_a_helper_that_another_module_takes_stays() -> None:
    text = without_model(_MODELS + _ORDER, kept=frozenset({"now"}))
    assert "def now() -> datetime:" in text
    assert "from datetime import UTC, datetime\n" in text
    compile(text, "models.py", "exec")


def test_a_module_without_the_model_is_left_as_it_is() -> None:
    text = '"""Mine."""\n\nimport os\n'
    assert without_model(text) == text
