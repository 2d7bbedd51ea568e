"""What a team imports is listed, exists, and is all that the team's own files need."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from app.settings import ROOT

PUBLIC = [
    "jetstream_bridge",
    "jetstream_bridge.cli",
    "jetstream_bridge.inbox.middleware",
    "jetstream_bridge.service",
    "jetstream_bridge.testing",
    "jetstream_bridge.testing.plugin",
    "jetstream_bridge.web",
]
OWN = [path for folder in ("app", "tests") for path in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("package", PUBLIC)
def test_each_listed_name_is_there(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_what_is_not_listed_is_named() -> None:
    with pytest.raises(AttributeError, match=r"'jetstream_bridge\.web' has no attribute 'Door'"):
        importlib.import_module("jetstream_bridge.web").Door  # noqa: B018


def _imports(path: Path) -> list[tuple[str, str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        (node.module, name.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jetstream_bridge")
        for name in node.names
        if node.module is not None
    ]


@pytest.mark.parametrize("path", OWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_teams_files_import_listed_names_only(path: Path) -> None:
    for package, name in _imports(path):
        assert package in PUBLIC, (package, name)
        assert name in importlib.import_module(package).__all__, (package, name)


def test_the_page_on_extending_names_these_places() -> None:
    page = (ROOT.parent / "docs" / "extending.md").read_text(encoding="utf-8")
    assert all(f"`{package}`" in page for package in PUBLIC)
