"""What starting a process loads: a package that is not needed for it is imported where it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import import_path

_UNNEEDED = {
    "alembic",
    "httpx",
    "hypothesis",
    "jinja2",
    "mako",
    "nats.contrib",
    "opentelemetry.exporter",
    "opentelemetry.sdk",
    "pygments",
    "pytest",
    "rich",
    "sqlalchemy.dialects.mssql",
    "sqlalchemy.dialects.mysql",
    "sqlalchemy.dialects.oracle",
    "typer",
    "watchfiles",
    "jetstream_bridge.cli",
    "jetstream_bridge.migrations",
    "jetstream_bridge.testing",
}
# What only a lifespan, or only a page of the console, needs.
_OF_A_RUNNING_API = {
    "uvicorn",
    "jetstream_bridge.bridge",
    "jetstream_bridge.inbox.worker",
    "jetstream_bridge.outbox.relay",
    "jetstream_bridge.web.console.pages",
}


def loaded(statement: str, tmp_path: Path) -> set[str]:
    """The modules of a process of its own that has run `statement`."""
    done = subprocess.run(
        [sys.executable, "-c", f"import json, sys; {statement}; print(json.dumps([*sys.modules]))"],
        cwd=tmp_path,
        env=os.environ
        | {
            "PYTHONPATH": import_path(),
            "APP_NAME": "orders",
            "DESTINATION_APP": "billing",
            "DATABASE_URL": "sqlite+aiosqlite:///x.db",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("statement", "unneeded"),
    [
        ("import app.main", _UNNEEDED | _OF_A_RUNNING_API),
        ("from app.main import app", _UNNEEDED),
        # The worker serves its probes with uvicorn, which takes watchfiles where it is there.
        ("import app.worker", _UNNEEDED - {"watchfiles"}),
        ("from app.worker import load_consumers; load_consumers()", _UNNEEDED - {"watchfiles"}),
    ],
)
def test_nothing_is_loaded_that_is_not_needed(
    statement: str, unneeded: set[str], tmp_path: Path
) -> None:
    assert loaded(statement, tmp_path) & unneeded == set()


def test_import_of_the_api_loads_few_modules_of_the_package(tmp_path: Path) -> None:
    """A limit and no measure: 85 of some 300 at the time of writing."""
    modules = loaded("import app.main", tmp_path)
    assert len([name for name in modules if name.startswith("jetstream_bridge.")]) <= 110


def test_who_has_rich_keeps_it(tmp_path: Path) -> None:
    """A service may use it: structlog alone does without."""
    assert "rich" in loaded("import rich; from app.main import app", tmp_path)
    after = loaded(
        "from app.main import app; import rich; assert rich.__name__ == 'rich'", tmp_path
    )
    assert "rich" in after
