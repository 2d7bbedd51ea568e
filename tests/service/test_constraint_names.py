"""Constraints have the same names on every database, whichever table's module comes first."""

from __future__ import annotations

import subprocess
import sys

import pytest

from app.settings import ROOT

MODULES = (
    "app.models",
    "jetstream_bridge.core.leases",
    "jetstream_bridge.inbox.tables",
    "jetstream_bridge.outbox.pauses",
    "jetstream_bridge.outbox.relay_notes",
    "jetstream_bridge.outbox.tables",
)
PROGRAM = """
import importlib, sys
importlib.import_module(sys.argv[1])
from sqlmodel import SQLModel
class Late(SQLModel, table=True):
    from sqlmodel import Field
    __tablename__ = "late"
    id: int = Field(primary_key=True)
for table in SQLModel.metadata.tables.values():
    print(table.name, table.primary_key.name)
"""


@pytest.mark.parametrize("module", MODULES)
def test_a_primary_key_is_called_like_its_table(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, module], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    names = dict(line.split() for line in done.stdout.splitlines())
    assert names == {table: f"pk_{table}" for table in names}
    assert "late" in names
