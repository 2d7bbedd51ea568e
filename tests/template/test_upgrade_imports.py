"""`jetstream_bridge.cli.upgrade_imports` rewrites what has a successor, and names what has none."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import jetstream_bridge
from jetstream_bridge.cli.upgrade_imports import MOVED, main, rewritten
from tests.template.baking import ROOT, TEMPLATE
from tests.template.test_upgrading import VERSIONS, needs_history, run

TABLE = "\n\nclass Order(SQLModel, table=True): ...\n"


def old_files(*names: str) -> list[str]:
    """Those of the files that version 0.1.0 has."""
    paths = [f"{TEMPLATE.name}/{name}" for name in names]
    return run(ROOT, "git", "ls-tree", "--name-only", VERSIONS["0.1.0"], *paths).splitlines()


@needs_history
@pytest.mark.parametrize("module", sorted(MOVED))
def test_each_module_was_there_and_its_successor_is(module: str) -> None:
    path = module.replace(".", "/")
    assert old_files(f"{path}.py", f"{path}/__init__.py")
    importlib.import_module(MOVED[module])


@needs_history
def test_every_public_name_of_the_old_bridge_is_a_name_of_the_package() -> None:
    source = f"{VERSIONS['0.1.0']}:{TEMPLATE.name}/app/bridge/__init__.py"
    for node in ast.parse(run(ROOT, "git", "show", source)).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            assert {*ast.literal_eval(node.value)} <= {*jetstream_bridge.__all__}
            return
    pytest.fail("the old bridge lists its names")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("from app.bridge import Event\n", "from jetstream_bridge import Event\n"),
        (
            "def f():\n    from app.bridge.testing import (\n        Deliver,\n    )\n",
            "def f():\n    from jetstream_bridge.testing import (\n        Deliver,\n    )\n",
        ),
        ("from app.database_of_ours import a\n", "from app.database_of_ours import a\n"),
        ("from app.bridge.slots import Slots\n", "from app.bridge.slots import Slots\n"),
        ("text = 'from app.bridge'\n", "text = 'from app.bridge'\n"),
        ("from sqlmodel import SQLModel, select\n", "from sqlmodel import SQLModel, select\n"),
        (
            f"from sqlmodel import Field, SQLModel\n{TABLE}",
            "from sqlmodel import Field\n"
            f"from jetstream_bridge.core.naming import SQLModel\n{TABLE}",
        ),
        (
            f"from sqlmodel import (\n    SQLModel,\n)\n{TABLE}",
            f"from jetstream_bridge.core.naming import SQLModel\n{TABLE}",
        ),
        (f"from sqlmodel import Field\n{TABLE}", f"from sqlmodel import Field\n{TABLE}"),
    ],
)
def test_the_text_of_a_module(old: str, new: str) -> None:
    assert rewritten(old) == new
    assert rewritten(new) == new


def test_what_has_no_successor_is_named_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app/routers").mkdir(parents=True)
    (tmp_path / "app/models.py").touch()
    module = tmp_path / "app/routers/orders.py"
    module.write_text(
        "from app.bridge import Event\nfrom app import models, advice\nimport app.bridge.slots\n"
        "from app.models import Order\nfrom tests.apps import make_app as made\n"
    )
    assert main(["app"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "app/routers/orders.py: rewritten",
        "app/routers/orders.py:2: app.advice is not there any more",
        "app/routers/orders.py:3: app.bridge.slots is not there any more",
        "app/routers/orders.py:5: tests.apps is not there any more",
    ]
    module.write_text("from app.models import Order\n")
    assert main(["app"]) == 0
    assert capsys.readouterr().out == ""


def test_a_folder_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["app"]) == 2
    assert "app is not a folder of" in capsys.readouterr().err


def test_a_folder_of_caches_only_is_not_there_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "app/console/__pycache__").mkdir(parents=True)
    (tmp_path / "app/console/__pycache__/pages.cpython-311.pyc").touch()
    (tmp_path / "app/own.py").write_text("from app.console import pages\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["app"]) == 1
    assert "app/own.py:1: app.console is not there any more" in capsys.readouterr().out
