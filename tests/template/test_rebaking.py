"""A service that is baked over itself keeps what its team has: edits, and what it removed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.template.baking import bake, clean_environment, run_generator

_PLAIN = ("-p", "no:schemathesis", "-p", "no:cacheprovider")
_OWN_ROUTER = '"""The team\'s own, and no example."""\n'


def rebake(service: Path) -> str:
    """Bake over the service with its own answers; return what was said on stderr."""
    answers = str(service / ".cookiecutter.yaml")
    done = run_generator(service.parent, "--overwrite-if-exists", "--config-file", answers)
    assert done.returncode == 0, done.stderr
    return done.stderr


def contents(service: Path) -> dict[str, bytes]:
    return {
        path.relative_to(service).as_posix(): path.read_bytes()
        for path in service.rglob("*")
        if path.is_file()
        and ".git" not in path.relative_to(service).parts
        and "__pycache__" not in path.parts
    }


def command(service: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=service,
        env=clean_environment(NATS_URLS="nats://127.0.0.1:1", PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def service(tmp_path: Path) -> Path:
    return bake(tmp_path / "out", database="sqlite")


def test_edits_of_the_team_stay_and_the_templates_file_is_beside(service: Path) -> None:
    models, env = service / "app/models.py", service / "migrations/env.py"
    for path in (models, env):
        path.write_text(path.read_text(encoding="utf-8") + "\nOWN = 1\n", encoding="utf-8")
    (service / "jetstream_bridge/core/clock.py").write_text("edited\n", encoding="utf-8")
    before = contents(service)

    said = rebake(service)

    assert "the team's: app/models.py, migrations/env.py. The template's" in said
    after = contents(service)
    beside = {name for name in after if name.startswith(".from-the-template/")}
    assert beside == {
        f".from-the-template/{name}" for name in ("app/models.py", "migrations/env.py")
    }
    different = {name for name in after.keys() - beside if after[name] != before.get(name)}
    assert different == {"jetstream_bridge/core/clock.py"}
    assert rebake(service) == said, "another bake says the same, and its folder is made anew"


def test_a_removed_example_stays_removed(service: Path) -> None:
    command(service, "app.cli", "example", "remove", "--yes", "--not-migrated")
    before = contents(service)

    assert rebake(service) == ""

    assert contents(service) == before


def test_what_is_called_like_the_example_and_is_the_teams_stays(tmp_path: Path) -> None:
    service = bake(tmp_path / "out", database="sqlite", include_example=False)
    own = service / "app/routers/customers.py"
    own.write_text(_OWN_ROUTER, encoding="utf-8")

    rebake(service)

    assert own.read_text(encoding="utf-8") == _OWN_ROUTER


def test_a_bake_without_the_example_is_one_from_which_it_was_removed(
    service: Path, tmp_path: Path
) -> None:
    command(service, "app.cli", "example", "remove", "--yes", "--not-migrated")
    without = bake(tmp_path / "without", database="sqlite", include_example=False)
    assert contents(service) == contents(without)


def test_an_example_whose_table_was_made_leaves_by_a_migration(service: Path) -> None:
    command(service, "alembic", "upgrade", "heads")
    said = command(service, "app.cli", "example", "remove", "--yes")

    assert "1. Read revision 0003: it drops the table customers, rows and all." in said
    assert (service / "migrations/versions/0002_customers.py").exists()
    command(service, "alembic", "upgrade", "heads")
    command(service, "alembic", "check")
    assert " passed" in command(service, "pytest", "-q", *_PLAIN)
    command(service, "ruff", "check", "--no-cache", "app", "migrations", "tests")
    command(service, "alembic", "downgrade", "0002")
    command(service, "alembic", "upgrade", "heads")
    assert (service / "migrations/versions/0003_drop_customers.py").exists()
    before = contents(service)
    assert rebake(service) == ""
    assert contents(service) == before
